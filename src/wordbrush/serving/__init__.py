"""The server: jobs that outlive a crash, worker processes that paint them, and the HTTP APIs in front.

work.py        what a job is: its kinds of work, its states, its pictures, its events
settings.py    what can be set, by one file, the environment and flags
app.py         the web application, put together; `wordbrush serve` runs it
store/         jobs, pictures and keys in a database; picture files beside it
workers/       the processes that load models and paint, and what hands them their work
guard/         who may call and how much: keys, hosts and origins, limits, uploads
native/        /v1/jobs, /v1/images, /v1/models: our own API
openai/        the OpenAI Images API
sdapi/         the API of AUTOMATIC1111's web UI

The server process never imports torch: only the workers do. See docs/serving.md.
"""
