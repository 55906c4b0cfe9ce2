from flyball_fast._placement_py import Scorer as Scorer
