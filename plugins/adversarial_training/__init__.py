"""Training without a teacher: what makes the teachers, and the rows to compare with."""
