"""The web page: paint, edit, look through what was painted, choose models, and see how it works.

app.py            the page put together, and mounted into the server
theme.py, page/   how it looks and what its script does
session.py        who sits at the page, and which of their jobs run
follow.py         a job while it runs; markup.py, the HTML that shows it
create*.py        the Create page; form.py, its form and the request that it stands for; restore.py, dropped pictures
gallery.py        the Gallery; history.py, what it shows
models_page.py    the Models page
edit*.py          the Edit page
understand*.py    the Understand page

Gradio is imported here alone, and only when the server has a studio. Nothing here imports torch: the workers paint.
"""

from wordbrush.studio.app import mount

__all__ = ["mount"]
