"""Where cells are computed: in this process, in others, on a Ray cluster."""

from saplab.runs.engines.base import Computed, Engine, Failed, Options, Tick, Workload, make_engine, register_engine
from saplab.runs.engines.in_process import InProcess
from saplab.runs.engines.processes import Workers
from saplab.runs.engines.ray import RayCluster

__all__ = [
    "Computed", "Engine", "Failed", "InProcess", "Options", "RayCluster", "Tick", "Workers", "Workload",
    "make_engine", "register_engine",
]  # fmt: skip
