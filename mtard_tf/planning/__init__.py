"""The cost of a run, estimated before it runs, for `mtard-plan`.

flops.count(...)    -> FLOPs of a traced function
plan.stages(...)    -> steps, FLOPs and memory of each stage
rates.measure(...)  -> throughput of this device
text.markdown(...)  -> the table
tune.trials(...)    -> settings that make steps faster here
"""
