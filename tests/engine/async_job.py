# SPDX-License-Identifier: Apache-2.0
"""``job.py`` behind vLLM's own front end for data parallel: the engine that its server runs.

    async_job.py JOB.json RESULT.json RANKS

RANKS: JSON, the data-parallel rank that each prompt goes to. A prompt comes when the one before it
has had half its tokens.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from job import engine_arguments, parameters_of, read_job, values_of
from vllm import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM


async def serve(job_file: str, result_file: str, ranks: list[int]) -> None:
    job = read_job(job_file)
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(job)))

    async def answer(i: int, halfway: asyncio.Event) -> Any:
        prompt = {"prompt_token_ids": job.prompts[i]}
        stream = engine.generate(prompt, parameters_of(job), str(i), data_parallel_rank=ranks[i])
        async for output in stream:
            if len(output.outputs[0].token_ids) >= job.max_tokens // 2:
                halfway.set()
        return output

    answers = []
    for i in range(len(job.prompts)):
        halfway = asyncio.Event()
        answers.append(asyncio.create_task(answer(i, halfway)))
        await halfway.wait()
    outputs = await asyncio.gather(*answers)
    values = values_of(outputs, await engine.collective_rpc("gdn_stats"))
    values["dummies"] = await engine.collective_rpc("count_dummies")
    Path(result_file).write_text(json.dumps(values))
    engine.shutdown()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
