"""The processes that load models and paint, and what hands them their work.

protocol.py    what the two sides say to each other, over a pipe
batching.py    which jobs go well together
dispatcher.py  in the server's process: takes jobs from the queue, one thread for each worker; handler.py is that thread
process.py     a worker's process: listens, and paints
painter.py     one batch of jobs: joined into loops, painted, written into files
rows.py        a job's pictures, how far they are, and what became of them
deeds.py       what is not painted from a request: enlarging, explaining, describing
models.py      the models of a worker, as many as fit its memory; weights.py counts them
problems.py    what is told of an error;  machine.py  what the machine has

Only `process.py` and what it imports in a worker load torch.
"""
