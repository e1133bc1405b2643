for (const table of document.querySelectorAll("table.sortable")) {
  for (const head of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      const at = head.cellIndex;
      const key = (row) => row.cells[at].dataset.value ?? row.cells[at].textContent.trim();
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        const [left, right] = [parseFloat(x), parseFloat(y)];
        const number = !isNaN(left) || !isNaN(right);
        if (number && (isNaN(left) || isNaN(right))) return isNaN(left) ? 1 : -1;
        const order = number ? left - right : x.localeCompare(y);
        return down ? order : -order;
      });
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "ascending" : "descending");
      table.tBodies[0].append(...rows);
    });
  }
}
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
