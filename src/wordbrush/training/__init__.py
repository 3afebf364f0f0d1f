"""Training.

recipe.py      a run as data: one YAML file              run.py        from a recipe file to a finished folder
task.py        what a task is to the loop                tasks/        the tasks, and their parts of the recipe
loop.py        the one loop                              optimiser.py  AdamW, Muon (muon.py)
tokenizer.py assemble.py export.py                       what is made without training, and how it is written
"""
