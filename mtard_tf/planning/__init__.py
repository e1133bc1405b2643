"""What a run will cost, before it runs: what `mtard-plan` does.

flops.count(...)    -> the work in a graph
plan.stages(...)    -> steps, work and memory of each stage
rates.measure(...)  -> what this machine does in a second
command.run(...)    -> the table
"""
