"""Every option with values: what a test says for it in code and in its variable, and what is kept of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from dspy_mlflow_callbacks import CallKind, SamplingRule, TailSampler


@attrs.frozen(kw_only=True)
class Row:
    """One option.

    Attributes:
        name: The option.
        text: What its variable says, and *read*, what is kept of it.
        given: What an argument says, and *kept*, what is kept of it.
        other: Another value, which is kept as it is.
    """

    name: str
    text: str
    read: Any
    given: Any
    kept: Any
    other: Any


def _row(name: str, text: str, read: Any, given: Any, other: Any, **kept: Any) -> Row:
    return Row(name=name, text=text, read=read, given=given, other=other, kept=kept.get("kept", given))


def _switch(name: str, text: str) -> Row:
    return _row(name, text, False, given=False, other=True)


RULE = SamplingRule(name="Search*", ratio=0.5, max_per_second=5)

ROWS = [
    _switch("enabled", "false"),
    _row("experiment", "questions", "questions", given="7", other="others"),
    _row("sampling_ratio", "0.25", 0.25, given=0.5, other=0),
    _row(
        "sampling_rules",
        '[{"name": "Search*", "ratio": 0.5, "max_per_second": 5}]',
        (RULE,),
        given=[{"tags": {"team": "s*"}}],
        kept=(SamplingRule(tags={"team": "s*"}),),
        other=(SamplingRule(experiment="7", ratio=0),),
    ),
    _row("tags", "team=search, stage = a=b", {"team": "search", "stage": "a=b"}, given={"a": "b"}, other={"c": "d"}),
    _row("metadata", '{"note": "a, b"}', {"note": "a, b"}, given={"a": "b"}, other={"c": "d"}),
    _row("session_id", "s-1", "s-1", given="s-2", other="s-3"),
    _row("user", "ada", "ada", given="grace", other="alan"),
    _row("level", "INFO", "info", given="Warning", kept="warning", other="error"),
    _row(
        "events",
        "lm, adapter",
        frozenset({CallKind.LM, CallKind.ADAPTER_FORMAT, CallKind.ADAPTER_PARSE}),
        given=["tool", CallKind.MODULE],
        kept=frozenset({CallKind.TOOL, CallKind.MODULE}),
        other=frozenset({CallKind.COMPILE}),
    ),
    _row("include", "Program.*,[ab]*", ("Program.*", "[ab]*"), given=["x"], kept=("x",), other=("y",)),
    _row("exclude", ' [ "a, b", "c" ] ', ("a, b", "c"), given=["x"], kept=("x",), other=("y",)),
    _switch("capture_inputs", "0"),
    _switch("capture_outputs", "No"),
    _switch("capture_messages", "OFF"),
    _row("max_payload_chars", "100", 100, given=1, other=10_000),
    _switch("redact", "False"),
    _row("redact_keys", "pin,*_code", ("pin", "*_code"), given=["x"], kept=("x",), other=("y",)),
    _row("redact_patterns", "[0-9]{3,4}", ("[0-9]{3,4}",), given=["x", "y"], kept=("x", "y"), other=("z",)),
    _row("redact_fields", "ssn", ("ssn",), given=["x"], kept=("x",), other=("y",)),
    _row("evaluate", "no", "off", given=False, kept="off", other="nested"),
    _row("compile", "Full", "full", given=False, kept="off", other="full"),
    _row("engine", "recorded", "recorded", given="recorded", other="native"),
    _row(
        "tail_sampler",
        '{"min_duration_s": 5, "background_ratio": 0.01}',
        TailSampler(min_duration_s=5, background_ratio=0.01),
        given={"keep_errors": False},
        kept=TailSampler(keep_errors=False),
        other=TailSampler(min_cost_usd=0.5),
    ),
    _row("max_queue_traces", "100", 100, given=1, other=5_000),
    _row("max_queue_bytes", "1000000", 1_000_000, given=1, other=5_000),
    _row("on_full", "drop", "drop", given="drop", other="block"),
    _row("max_block_s", "0.5", 0.5, given=2, other=0.25),
    _row("exit_timeout_s", "0", 0, given=2.5, other=30),
    _row("max_open_s", "60", 60, given=0.5, other=3600),
    _row("spool_dir", "/var/spool/traces", "/var/spool/traces", given=Path("here"), kept="here", other=""),
    _row("max_spool_bytes", "1000000", 1_000_000, given=1, other=5_000),
    _row("max_spool_age_s", "3600", 3600, given=0.5, other=60),
    _row("durable", "FSYNC", "fsync", given=True, other="fsync"),
    _row("max_silent_s", "90", 90, given=0.5, other=7200),
    _row("verbosity", "error", "error", given="debug", other="silent"),
]

# An option, what is wrong in code, and what is said of it.
WRONG_ARGUMENTS = [
    ("enabled", "yes", TypeError, "must be True or False, got 'yes'"),
    ("experiment", 7, TypeError, "must be a text, got 7"),
    ("experiment", "", ValueError, "must have 1 to 500 characters, got 0"),
    ("sampling_ratio", 1.5, ValueError, "ratio must be a number from 0 to 1, got 1.5"),
    ("sampling_ratio", "0.5", TypeError, "ratio must be a number from 0 to 1, got '0.5'"),
    ("sampling_ratio", float("nan"), ValueError, "ratio must be a number from 0 to 1, got nan"),
    ("sampling_rules", "Search*", TypeError, r"rules must be an iterable of SamplingRule, got 'Search\*'"),
    ("sampling_rules", [{"ratio": 2}], ValueError, "ratio must be a number from 0 to 1, got 2"),
    ("tags", "team", TypeError, "must be a mapping of texts to texts, got 'team'"),
    ("tags", {"n": 1}, TypeError, "tags must map texts to texts or callables, got 'n': 1"),
    ("metadata", {"n": "x" * 251}, ValueError, r"metadata\['n'\] must have at most 250 characters, got 251"),
    ("session_id", 7, TypeError, "session_id must be a text or a callable, got 7"),
    ("user", 7, TypeError, "user must be a text or a callable, got 7"),
    ("level", "loud", ValueError, "level must be one of debug, info, warning, error, critical, got 'loud'"),
    ("level", None, ValueError, "level must be one of debug, info, warning, error, critical, got None"),
    ("events", "lm", TypeError, "kinds must be an iterable of module, lm, .*, got 'lm'"),
    ("events", ["llm"], ValueError, "'llm' is no kind of call; allowed are module, lm, "),
    ("include", "Program.*", TypeError, "names must be an iterable of globs such as .*, got 'Program.*'"),
    ("exclude", [7], TypeError, "a glob must be a text such as .*, got 7"),
    ("capture_inputs", 1, TypeError, "must be True or False, got 1"),
    ("capture_outputs", None, TypeError, "must be True or False, got None"),
    ("capture_messages", "no", TypeError, "must be True or False, got 'no'"),
    ("max_payload_chars", 0, ValueError, "max_chars must be at least 1 character, got 0"),
    ("max_payload_chars", True, TypeError, "max_chars must be a number of characters, got True"),
    ("redact", 0, TypeError, "must be True or False, got 0"),
    ("redact_keys", "pin", TypeError, "keys must be an iterable of texts, got 'pin'"),
    ("redact_patterns", ["("], ValueError, r"patterns must be regular expressions, got '\('"),
    ("redact_fields", [7], TypeError, "fields must be texts, got 7"),
    ("evaluate", "no", ValueError, "must be one of linked, nested, off, got 'no'"),
    ("compile", "no", ValueError, "must be one of summary, full, off, got 'no'"),
    ("engine", "fast", ValueError, "must be one of auto, recorded, native, got 'fast'"),
    ("tail_sampler", 0.1, TypeError, "must be a TailSampler or its arguments by name, got 0.1"),
    ("tail_sampler", {"ratio": 1}, TypeError, "'ratio' is no argument of TailSampler; allowed are keep_errors, "),
    ("tail_sampler", {"min_tokens": -1}, ValueError, "min_tokens must be at least 0, got -1"),
    ("tail_sampler", {"min_tokens": "7"}, TypeError, "min_tokens must be a number or None, got '7'"),
    ("max_queue_traces", 0, ValueError, "must be a whole number from 1 on, got 0"),
    ("max_queue_traces", 1.5, TypeError, "must be a whole number from 1 on, got 1.5"),
    ("max_queue_bytes", -1, ValueError, "must be a whole number from 1 on, got -1"),
    ("max_queue_bytes", True, TypeError, "must be a whole number from 1 on, got True"),
    ("on_full", "wait", ValueError, "must be one of block, drop, got 'wait'"),
    ("max_block_s", 0, ValueError, "must be a number above 0, got 0"),
    ("max_block_s", "1", TypeError, "must be a number above 0, got '1'"),
    ("exit_timeout_s", -1, ValueError, "must be a number from 0 on, got -1"),
    ("exit_timeout_s", float("inf"), ValueError, "must be a number from 0 on, got inf"),
    ("max_open_s", 0.0, ValueError, "must be a number above 0, got 0.0"),
    ("max_open_s", None, TypeError, "must be a number above 0, got None"),
    ("spool_dir", 7, TypeError, "must be a path, got 7"),
    ("spool_dir", b"here", TypeError, "must be a path, got b'here'"),
    ("spool_dir", "a\0b", ValueError, r"must be a path, got 'a\\x00b'"),
    ("max_spool_bytes", 0, ValueError, "must be a whole number from 1 on, got 0"),
    ("max_spool_age_s", 0, ValueError, "must be a number above 0, got 0"),
    ("durable", "always", ValueError, "must be True, False or 'fsync', got 'always'"),
    ("durable", 1, TypeError, "must be True, False or 'fsync', got 1"),
    ("max_silent_s", -1, ValueError, "must be a number above 0, got -1"),
    ("max_silent_s", "1", TypeError, "must be a number above 0, got '1'"),
    ("verbosity", "loud", ValueError, "must be one of silent, error, warning, info, debug, got 'loud'"),
    ("verbosity", [], ValueError, r"must be one of silent, error, warning, info, debug, got \[\]"),
]

_SWITCH = "must be one of true, 1, yes, on, false, 0, no, off"

# An option, what is wrong in its variable, and what is said of it.
WRONG_TEXTS = [
    ("enabled", "maybe", _SWITCH),
    ("experiment", "x" * 501, "must have 1 to 500 characters, got 501"),
    ("sampling_ratio", "half", "must be a number"),
    ("sampling_ratio", "2", "ratio must be a number from 0 to 1, got 2.0"),
    ("sampling_rules", "Search*", "must be JSON (unexpected character"),
    ("sampling_rules", '{"name": "Search*"}', "rules must be an iterable of SamplingRule, got {'name': 'Search*'}"),
    ("sampling_rules", '[{"share": 1}]', "a sampling rule must be an object with any of name, "),
    ("tags", "team", "must be a JSON object, or name=value pairs with commas between them"),
    ("tags", '{"n": 1}', "tags must map texts to texts or callables, got 'n': 1"),
    ("metadata", "{team}", "must be JSON ("),
    ("session_id", "x" * 251, "session_id must have at most 250 characters, got 251"),
    ("user", "x" * 251, "user must have at most 250 characters, got 251"),
    ("level", "loud", "level must be one of debug, info, warning, error, critical, got 'loud'"),
    ("events", "llm", "'llm' is no kind of call; allowed are module, lm, "),
    ("include", '["a", 1]', "a glob must be a text such as 'Program.*', got 1"),
    ("exclude", '["a"', "must be JSON ("),
    ("capture_inputs", "maybe", _SWITCH),
    ("capture_outputs", "2", _SWITCH),
    ("capture_messages", "nope", _SWITCH),
    ("max_payload_chars", "1.5", "must be a whole number"),
    ("max_payload_chars", "0", "max_chars must be at least 1 character, got 0"),
    ("redact", "maybe", _SWITCH),
    ("redact_keys", '["a", 1]', "must be texts, got 1"),
    ("redact_patterns", "(", "patterns must be regular expressions, got '('"),
    ("redact_fields", '["a", 1]', "must be texts, got 1"),
    ("evaluate", "maybe", "must be one of linked, nested, off, got 'maybe'"),
    ("compile", "maybe", "must be one of summary, full, off, got 'maybe'"),
    ("engine", "fast", "must be one of auto, recorded, native, got 'fast'"),
    ("tail_sampler", "errors", "must be JSON (unexpected character"),
    ("tail_sampler", "0.1", "must be a TailSampler or its arguments by name, got 0.1"),
    ("tail_sampler", '{"keep": true}', "keep must be a callable EndedTrace -> bool, got True"),
    ("tail_sampler", '{"background_ratio": 2}', "background_ratio must be a number from 0 to 1, got 2"),
    ("max_queue_traces", "many", "must be a whole number"),
    ("max_queue_traces", "0", "must be a whole number from 1 on, got 0"),
    ("max_queue_bytes", "1e9", "must be a whole number"),
    ("on_full", "wait", "must be one of block, drop, got 'wait'"),
    ("max_block_s", "0", "must be a number above 0, got 0.0"),
    ("exit_timeout_s", "long", "must be a number"),
    ("max_open_s", "nan", "must be a number above 0, got nan"),
    ("spool_dir", "a\0b", "must be a path, got 'a\\x00b'"),
    ("max_spool_bytes", "much", "must be a whole number"),
    ("max_spool_age_s", "0", "must be a number above 0, got 0.0"),
    ("durable", "always", _SWITCH),
    ("max_silent_s", "no", "must be a number"),
    ("verbosity", "loud", "must be one of silent, error, warning, info, debug, got 'loud'"),
]
