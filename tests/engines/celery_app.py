"""The Celery app of the tests."""

from __future__ import annotations

import os

import dspy
from celery import Celery
from program_of_tasks import LM, program

from dspy_mlflow_callbacks import MlflowCallback
from dspy_mlflow_callbacks.distributed.celery import trace_tasks

URL = os.environ.get("CELERY_URL", "memory://")
app = Celery("celery_app", broker=URL, backend=URL)
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, worker_prefetch_multiplier=1)
trace_tasks(app)

if os.environ.get("IS_WORKER"):
    dspy.configure(lm=LM, callbacks=[MlflowCallback()])


@app.task(bind=True, max_retries=2)
def answer(self, question):
    if question == "comes again" and not self.request.retries:
        program(question="once")
        raise self.retry(countdown=0)
    return program(question=question).answer
