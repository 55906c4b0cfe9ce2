"""Tokens and steps from engines' pages, joined with joules."""

import pytest

from flyball_agent.engine_metrics import parse_counters, work_between

# Shape of a vLLM page (names as in its metrics documentation); two engines behind one page.
VLLM = """# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 1000.0
vllm:generation_tokens_total{engine="1",model_name="m"} 500.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 4e3
vllm:num_requests_running{engine="0",model_name="m"} 3.0
"""


def test_counters_are_summed_over_their_labels_and_others_passed_over() -> None:
    assert parse_counters(VLLM) == {"generated_tokens": 1500.0, "prompt_tokens": 4000.0}
    assert parse_counters("training_steps_total 12\n") == {"steps": 12.0}
    assert parse_counters("<html>vllm:generation_tokens_total - -</html>") == {}


def test_tokens_per_joule_and_per_megawatt() -> None:
    done = work_between({"generated_tokens": 100.0}, {"generated_tokens": 1100.0}, 500.0, 10.0)

    assert done.per_joule("generated_tokens") == 2.0
    assert done.per_second_and_megawatt("generated_tokens") == 2e6
    assert done.per_joule("steps") is None


def test_unknown_energy_or_work_is_unknown_and_not_zero() -> None:
    assert work_between({}, {"steps": 5.0}, 100.0, 1.0).per_joule("steps") is None
    assert work_between({"steps": 1.0}, {"steps": 5.0}, None, 1.0).per_joule("steps") is None
    assert work_between({"steps": 1.0}, {"steps": 5.0}, None, 1.0).cost_per_million("steps", 0.1, 2.0, 8) is None


def test_an_engine_that_started_again_counts_from_zero() -> None:
    assert work_between({"steps": 90.0}, {"steps": 7.0}, 1.0, 1.0).amounts == {"steps": 7.0}


def test_a_million_tokens_cost_their_energy_and_their_gpu_hours() -> None:
    done = work_between({"generated_tokens": 0.0}, {"generated_tokens": 1e6}, 3.6e6, 3600.0)

    assert done.cost_per_million("generated_tokens", 0.10, 2.0, 8) == pytest.approx(0.10 + 16.0)
