# SPDX-License-Identifier: Apache-2.0
"""What is read out of a log: the phase of the start, the first error, and what helps."""

from __future__ import annotations

import pytest

from server_log import StartProgress, bare_message, first_error, hint, last_lines

# The log of a start (vLLM 0.23.0, CPU), cut.
START = """\
INFO 11-26 01:16:59 [importing.py:81] Triton not installed or not compatible; certain functions
(APIServer pid=8410) INFO 11-26 01:17:05 [api_utils.py:273] non-default args: {'host': '127.0.0.1'}
(APIServer pid=8410) WARNING 11-26 01:17:05 [system_utils.py:299] Found ulimit of 20000 and failed \
to automatically increase with error current limit exceeds maximum limit. This can cause fd limit \
errors like `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n
(APIServer pid=8410) INFO 11-26 01:18:03 [model.py:1745] Using max model len 4096
(APIServer pid=8410) INFO 11-26 01:19:07 [vllm.py:999] Asynchronous scheduling is enabled.
(EngineCore pid=9690) INFO 11-26 01:20:04 [core.py:113] Initializing a V1 LLM engine (v0.23.0)
(EngineCore pid=9690) INFO 11-26 01:20:04 [ompmultiprocessing.py:185] \treserved_cpus=[]
[W1126 01:20:50.50 utils.cpp:68] Warning: NUMA binding: Using MEMBIND policy for memory allocation
(Worker pid=10055) WARNING 11-26 01:20:50 [cpu_worker.py:114] libiomp is not found in LD_PRELOAD.
(Worker pid=10055) INFO 11-26 01:20:50 [cpu_model_runner.py:104] Starting to load model model...
(Worker pid=10055) INFO 11-26 01:20:50 [vllm.py:999] Asynchronous scheduling is disabled.
(Worker pid=10055) INFO 11-26 01:20:50 [cpu_model_runner.py:121] Warming up model for the compil
(EngineCore pid=9690) INFO 11-26 01:20:51 [kv_cache_utils.py:1744] GPU KV cache size: 419,430 tokens
(EngineCore pid=9690) INFO 11-26 01:20:52 [core.py:313] init engine (profile, create kv cache) took
(EngineCore pid=9690) INFO 11-26 01:20:53 [vllm.py:999] Asynchronous scheduling is disabled.
(APIServer pid=8410) INFO:     Application startup complete.
"""
PHASES = [
    "importing vLLM",
    "reading the model's configuration",
    "starting the engine's process",
    "starting the worker's process",
    "loading the model",
    "warming up",
    "starting the API server",
]


def test_phases_of_a_start(tmp_path):
    log = tmp_path / "log"
    log.touch()
    said: list[str] = []
    progress = StartProgress(log, said.append, steady=False)
    seen = [progress.look()]
    with log.open("a") as file:
        for line in START.splitlines(keepends=True):
            file.write(line)
            file.flush()
            seen.append(progress.look())
    progress.end()
    assert [line.split(":")[0].strip() for line in said] == PHASES
    assert list(dict.fromkeys(text.split(",")[0] for text in seen)) == PHASES


@pytest.mark.parametrize(("steady", "lines"), [(True, 3), (False, 1)])
def test_a_long_phase_is_told_again_where_nothing_else_shows_it(tmp_path, mocker, steady, lines):
    (tmp_path / "log").touch()
    clock = mocker.patch("server_log.time.monotonic", return_value=0.0)
    said: list[str] = []
    progress = StartProgress(tmp_path / "log", said.append, steady)
    for clock.return_value in range(89):
        progress.look()
    progress.end()
    assert len(said) == lines
    assert said[-1] == "  importing vLLM: 88 s"


def test_last_lines_skips_empty_ones(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"one\ntwo \n\n\xff three\n\n")
    assert last_lines(log, 2) == ["two", "\N{REPLACEMENT CHARACTER} three"]
    log.write_bytes(b"")
    assert last_lines(log, 1) == []


def test_first_error_is_the_cause(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        "INFO 11-22 16:32:49 [core.py:1] no Error: yet\n"
        "(Worker pid=7) ERROR 11-22 16:46:27 [a.py:9] vllm.MissingError: no compiler\n"
        "RuntimeError: see above\n"
    )
    assert first_error(log) == "vllm.MissingError: no compiler"
    log.write_text("fine\n")
    assert first_error(log) is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("(EngineCore pid=7) INFO 11-22 16:32:49 [core.py:1] ready [now]", "ready [now]"),
        ("INFO 11-22 16:32:49 [core.py:1] ready", "ready"),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
    ],
)
def test_bare_message(line, message):
    assert bare_message(line) == message


def test_an_error_without_a_message_comes_with_its_line(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        '(Worker pid=7) ERROR 11-22 16:46:27 [a.py:9]   File "/a/cpu_fused_moe.py", line 53\n'
        "(Worker pid=7) ERROR 11-22 16:46:27 [a.py:9]     assert config is not None\n"
        "(Worker pid=7) ERROR 11-22 16:46:27 [a.py:9]            ^^^^^^^^^^^^^^^^^^\n"
        "(Worker pid=7) ERROR 11-22 16:46:27 [a.py:9] AssertionError\n"
    )
    assert first_error(log) == "AssertionError at `assert config is not None`"


@pytest.mark.parametrize(
    ("line", "end", "advice"),
    [
        ("OSError: [Errno 98] Address already in use", "", "give another"),
        (
            "ImportError: libnuma.so.1: cannot open shared object file",
            "",
            "apt-get install libnuma1",
        ),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory", "", "VLLM_CPU_KVCACHE_SPACE"),
        ("", "the server ended with code 137", "Memory ran out"),
        ("", "the server ended with code 132", "AVX2"),
        ("Fatal Python error: Illegal instruction", "", "AVX2"),
        ("OSError: [Errno 28] No space left on device", "", "--shm-size"),
        ("ascend_gdn.IncompatibleStackError: got vLLM 0.24", "", "Do what the error says"),
        ("ModuleNotFoundError: No module named 'openai'", "", "make setup"),
        ("AssertionError: Current vLLM config is not set.", "", "please report it"),
        ("", "the server ended with code 1", "please report it"),
    ],
)
def test_what_to_do(tmp_path, line, end, advice):
    log = tmp_path / "log"
    log.write_text(f"{START}(EngineCore pid=7) ERROR 11-22 16:46:27 [a.py:9] {line}\n")
    assert advice in hint(log, end)
