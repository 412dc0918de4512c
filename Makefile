# Each target does the set-up it needs: a .venv from poetry.lock, once.
.PHONY: setup demo test slow lint
.DEFAULT_GOAL := test

bin := .venv/bin
# scikit-learn's threads beside torch's slow both down
export OMP_NUM_THREADS ?= 1

setup:
	@tools/setup

demo: setup
	$(bin)/unlabeled-biosignal demo -o runs/demo/watch
	$(bin)/unlabeled-network demo -o runs/demo/services
	$(bin)/unlabeled-earth demo -o runs/demo/landsat

test: setup
	$(bin)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

slow: setup
	$(bin)/python -m pytest -m "slow or gpu"

lint: setup
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy shared/src packages/biosignal/src packages/earth/src packages/network/src
	$(bin)/lint-imports
