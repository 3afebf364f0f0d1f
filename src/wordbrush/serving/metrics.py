"""What Prometheus reads: jobs, the queue, how long they wait and are painted, workers, and requests of HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from wordbrush.serving.work import Explain, Generate, Job

if TYPE_CHECKING:
    from wordbrush.serving.server import Server

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
_FAST = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The numbers of one server; they begin at zero with it, but for those that are read from its queue."""

    def __init__(self, server: Server) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        labels = ("kind", "source")
        self.jobs = Counter(
            "wordbrush_jobs_ended", "Jobs that ended, by how.", ("state", *labels), registry=registry
        )
        self.waiting = Histogram(
            "wordbrush_job_waiting_seconds", "From coming in to the start.", labels, buckets=_SECONDS, registry=registry
        )
        self.painting = Histogram(
            "wordbrush_job_painting_seconds", "From the start to the end.", labels, buckets=_SECONDS, registry=registry
        )
        self.pictures = Counter("wordbrush_pictures", "Pictures that jobs gave.", labels, registry=registry)
        self.steps = Counter("wordbrush_steps", "Sampling steps of finished jobs.", registry=registry)
        self.requests = Counter(
            "wordbrush_http_requests", "Requests answered.", ("method", "route", "status"), registry=registry
        )
        self.answering = Histogram(
            "wordbrush_http_seconds", "Until the answer began.", ("method", "route"), buckets=_FAST, registry=registry
        )
        registry.register(_Now(server))
        server.jobs.on_ended(self.ended)

    def ended(self, job: Job) -> None:
        """Counts a job that ended."""
        kind, source = job.work.kind, job.source
        self.jobs.labels(job.state, kind, source).inc()
        until = job.started or job.finished
        if until is not None:
            self.waiting.labels(kind, source).observe(max(0.0, (until - job.created).total_seconds()))
        if job.started is not None and job.finished is not None:
            self.painting.labels(kind, source).observe(max(0.0, (job.finished - job.started).total_seconds()))
        self.pictures.labels(kind, source).inc(sum(picture.role == "picture" for picture in job.pictures))
        if isinstance(job.work, Generate | Explain):
            self.steps.inc(sum((picture.request or {}).get("steps", 0) for picture in job.pictures
                               if picture.role == "picture"))


class _Now:
    """What is asked anew each time: the queue and the workers."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> list[Metric]:
        """Nothing: the names are known only when asked."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The numbers as they are now."""
        stats = self._server.jobs.stats()
        jobs = GaugeMetricFamily("wordbrush_jobs", "Jobs in the database.", labels=["state", "source"])
        for (state, source), number in stats.by_source.items():
            jobs.add_metric([state, source], number)
        yield jobs
        limit, paused = self._server.settings.queue_limit, float(stats.paused)
        yield GaugeMetricFamily("wordbrush_queue_length", "Jobs that wait.", value=stats.queued)
        yield GaugeMetricFamily("wordbrush_queue_pictures", "Pictures that they ask for.", value=stats.pictures_waiting)
        yield GaugeMetricFamily("wordbrush_queue_limit", "Most that may.", value=limit)
        yield GaugeMetricFamily("wordbrush_queue_paused", "1 while it is paused.", value=paused)
        workers = GaugeMetricFamily("wordbrush_workers", "Worker processes, by state.", labels=["state"])
        memory = GaugeMetricFamily("wordbrush_worker_memory_bytes", "Memory of a worker.", labels=["worker"])
        models = GaugeMetricFamily("wordbrush_model_cache_bytes", "Models that a worker keeps.", labels=["worker"])
        states: dict[str, int] = {}
        for number, worker in enumerate(self._server.dispatcher.status()):
            states[worker.state] = states.get(worker.state, 0) + 1
            memory.add_metric([str(number)], worker.memory)
            models.add_metric([str(number)], sum(worker.models.values()))
        for state, number in states.items():
            workers.add_metric([state], number)
        yield from (workers, memory, models)
