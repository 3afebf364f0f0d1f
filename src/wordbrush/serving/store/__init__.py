"""The database, the picture files, and the queue of jobs.

tables.py     the tables                     database.py   opening it: WAL, lock, schema version, transactions
files.py      pictures by their hash         store.py      `Store`: all of it together
records.py    jobs between memory, rows and JSON
queue.py      the order of what waits        channel.py    events and their subscribers
board.py      what waits and runs, in memory
rows.py       what is written                history.py    what is read back
handing.py, looking.py, jobs.py   `Jobs`: the workers' side, the readers' side, and all of it
retention.py  deleting
"""

from wordbrush.serving.store.errors import IdempotencyConflict, NoSuchJob, NotAllowed, QueueFull, WrongState
from wordbrush.serving.store.files import InputFiles, PictureFiles
from wordbrush.serving.store.handing import Finished
from wordbrush.serving.store.history import JobFilter, Page
from wordbrush.serving.store.jobs import Jobs
from wordbrush.serving.store.looking import Stats
from wordbrush.serving.store.records import job_json, picture_json, progress_json, work_json
from wordbrush.serving.store.store import Store

__all__ = [
    "Finished", "IdempotencyConflict", "InputFiles", "JobFilter", "Jobs", "NoSuchJob", "NotAllowed", "Page",
    "PictureFiles", "QueueFull", "Stats", "Store", "WrongState", "job_json", "picture_json", "progress_json",
    "work_json",
]  # fmt: skip
