"""Tasks: the one place where kinds of model differ for the stages that make one.

A task is a module here with the same name as in `params.yaml`, and a line in `registry`. How its models are measured
stands in `pipeline.evaluation.suite`, so a change of a measurement trains nothing again.
"""
