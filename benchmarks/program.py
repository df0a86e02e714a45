"""What is traced: programs on a language model that answers in this process."""

from __future__ import annotations

import asyncio
import time

import dspy

ANSWER = "[[ ## reasoning ## ]]\nbecause\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
SIGNATURE = "question -> answer"


class Engine:
    """Answers in this process, after *latency_s* seconds."""

    def __init__(self, latency_s=0.0):
        self.latency_s = latency_s

    def complete(self, request):
        if self.latency_s:
            time.sleep(self.latency_s)
        return response(request)


class AsyncEngine(Engine):
    async def complete(self, request):
        if self.latency_s:
            await asyncio.sleep(self.latency_s)
        return response(request)


def response(request):
    return dspy.lm15.Response(
        id="r",
        model=request.model,
        message=dspy.lm15.Message.assistant(ANSWER),
        finish_reason="stop",
        usage=dspy.lm15.Usage(input_tokens=100, output_tokens=20),
    )


def offline_lm(latency_s=0.0):
    """Return an LM that answers each request alike, after *latency_s* seconds, sync and async."""
    if hasattr(dspy, "lm15"):
        engines = {"engine": Engine(latency_s), "async_engine": AsyncEngine(latency_s)}
        return dspy.LM("openai/offline", cache=False, **engines)
    return lm_without_engines(latency_s)


def lm_without_engines(latency_s):
    """Return the same for dspy < 3.4."""
    from dspy.utils.dummies import DummyLM

    class OfflineLM(DummyLM):
        def _use_example(self, messages):
            return ANSWER

        def forward(self, *arguments, **options):
            time.sleep(latency_s)
            return super().forward(*arguments, **options)

        async def aforward(self, *arguments, **options):
            await asyncio.sleep(latency_s)
            return super().forward(*arguments, **options)

    return OfflineLM([], follow_examples=True)


def five_spans():
    """Return a program of two modules, an adapter's format and parse, and the LM: five spans."""
    return dspy.ChainOfThought(SIGNATURE)


class TwoSteps(dspy.Module):
    """Ten spans: this module, the five of a `ChainOfThought`, and the four of a `Predict`."""

    def __init__(self):
        super().__init__()
        self.think = dspy.ChainOfThought(SIGNATURE)
        self.check = dspy.Predict(SIGNATURE)

    def forward(self, question):
        self.think(question=question)
        return self.check(question=question)


class Echo(dspy.Module):
    """One span, and nothing else."""

    def forward(self, text):
        return dspy.Prediction(length=len(text))


class Loop(dspy.Module):
    """As many spans as it is told: itself, and calls of an `Echo`."""

    def __init__(self):
        super().__init__()
        self.step = Echo()

    def forward(self, spans):
        done = dspy.Prediction()
        for _ in range(spans - 1):
            done = self.step(text="a short text")
        return done


def warmed_up(program, calls, store):
    """Call *program* on the offline LM until its process is warm, let *store* have that, and return it."""
    dspy.configure(lm=offline_lm())
    for each in range(calls):
        program(question=f"warm-up {each}")
    store.flush()
    return program


def timed(program, **inputs):
    """Return the nanoseconds that a call takes, and those of CPU that it takes in this thread."""
    cpu, start = time.thread_time_ns(), time.perf_counter_ns()
    program(**inputs)
    end = time.perf_counter_ns()
    return end - start, time.thread_time_ns() - cpu
