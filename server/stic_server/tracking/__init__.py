"""MLflow and TensorBoard as observers of a run: they are given what the run's folder holds, and nothing else.

Each has a process of its own (`observed`), which reads the folder's record, rounds and evaluation as the
report does, and sends what the observer lacks. Whatever happens to it, the run goes on and ends.
"""
