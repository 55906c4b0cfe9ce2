"""The same hard fault on many hosts at once: all refuse by themselves, and node scope stops at the pool's limit."""

from flyball_cli.bench_isolation_fleet import measure


def test_every_host_refuses_its_gpu_and_node_scope_stops_at_the_pool_or_before() -> None:
    result = measure(40)

    assert result["guarded_refused_max_s"] <= 3.0
    assert result["guarded_mode"] == "careful"
    assert result["guarded_hosts_out"] <= result["guarded_places"]
    assert result["pools_only_mode"] == "normal"
    assert result["pools_only_hosts_out"] == result["pools_only_places"] == 2
