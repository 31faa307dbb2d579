# make demo       page and dashboard at http://127.0.0.1:7860   (MODEL=folder PORT=7860 BACKEND=pytorch|onnx|int8)
# make dashboard  the dashboard alone at http://127.0.0.1:8501  (MODEL=folder PORT=8501)
# make test       the tests to run while working, some four minutes: all but the commands of the documents, Ray, and
#                 what is marked slow (pyproject.toml says what each marker means)
# make test-all   every test, in half an hour or more; one that needs what is not installed is skipped
# make check      style and types; those of the static page too, where Node is installed
# make interop    RapidFit, PEFT, SetFit, sentence-transformers, Optimum and two versions of transformers, in environments
#                 of their own, must answer as Triptych does: six minutes, fetches a few small packages
# make soak       the long forms of the tests, half an hour: raw bytes and generated requests against the API,
#                 overload, memory over ten minutes; malformed requests against the page; the scorer killed 1,000 times
#                 and fed 50,000 changed files
# make load       requests/s of the API at 1, 8 and 32 connections, on a machine that does nothing else, into
#                 assets/load.json (INFINITY=python of an environment with infinity-emb, to be measured beside it)
# make peers      other ways to run the demo model on a CPU, each in an environment of its own, in turns with this one,
#                 into assets/peers.json, docs/performance.md and README.md: some 25 minutes on a machine that does
#                 nothing else, and at first a few more for the environments (ROUNDS=10 DATA=folder with
#                 <task>/validation.csv)
# make weight   bytes, seconds and layout shift of the first load of page, dashboard and static page
# make pictures  renew the pictures of README: assets/page.png, dashboard.png and static.png
# make figures    measure the demo model again and write the tables that README and model card show: some 20 minutes,
#                 on a machine that does nothing else (DATA=folder with <task>/validation.csv)

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
MODEL  ?= assets/models/demo
BACKEND ?= int8
TSC := npx --yes --package typescript@5.9.3 tsc

.PHONY: demo dashboard test test-all check interop soak load peers weight pictures figures clean

# exec: make passes SIGTERM on to its child only, which would otherwise be a shell.
demo: $(VENV)/app
	exec env TRIPTYCH_MODEL="$(MODEL)" TRIPTYCH_BACKEND="$(BACKEND)" PORT="$(or $(PORT),7860)" $(BIN)/python serve.py

dashboard: $(VENV)/app
	exec env TRIPTYCH_MODEL="$(MODEL)" $(BIN)/python -m streamlit run dashboard/main.py \
	  --server.address 127.0.0.1 --server.port "$(or $(PORT),8501)"

# Each worker takes a file at a time; sources are compiled once, not in each process that a test starts. A third worker
# uses the time in which slow tests wait for servers and browsers: on two cores it saves a quarter of test-all.
unexport PYTHONDONTWRITEBYTECODE
BY_FILE := --dist loadfile --no-loadscope-reorder
test: $(VENV)/dev
	$(BIN)/python -m pytest -n 2 $(BY_FILE) -m "not (docs or slow or ray)"

test-all: $(VENV)/dev
	$(BIN)/python -m pytest -n 3 $(BY_FILE)

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@! $(TSC) --version >/dev/null 2>&1 || $(TSC) -p static/jsconfig.json

interop: $(VENV)/dev
	$(BIN)/python tests/interop/run.py

soak: $(VENV)/dev
	$(BIN)/python tests/soak/kills.py --points 1000
	$(BIN)/python tests/soak/csvs.py --files 50000
	$(BIN)/python tests/soak/api.py
	$(BIN)/python tests/soak/page.py

load: $(VENV)/dev
	$(BIN)/python tests/load/run.py --out assets/load.json $(if $(INFINITY),--infinity "$(INFINITY)")

peers: $(VENV)/dev
	$(BIN)/python -m bench $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DATA),--data "$(DATA)")

weight: $(VENV)/dev
	$(BIN)/python tests/views.py weigh

pictures: $(VENV)/dev
	$(BIN)/python tests/views.py pictures

RECEIPTS := assets/receipts
figures: $(VENV)/dev
	@test -n "$(wildcard $(DATA)/*/validation.csv)" || { echo "Set DATA to a folder with <task>/validation.csv."; exit 2; }
	@mkdir -p $(RECEIPTS)
	for task in $(notdir $(patsubst %/validation.csv,%,$(wildcard $(DATA)/*/validation.csv))); do \
	  $(BIN)/python -m inference compare --data "$(DATA)/$$task/validation.csv" --task $$task --out $(RECEIPTS)/$$task.json \
	  || exit 1; done
	$(BIN)/python -m inference compare --out $(RECEIPTS)/showcase.json
	for backend in int8 onnx pytorch; do \
	  $(BIN)/python -m inference explain --check --backend $$backend --out assets/faithfulness.json || exit 1; done
	$(BIN)/python -m inference explain --check --backend pytorch --method integrated_gradients \
	  --out assets/faithfulness.json
	$(BIN)/python -m training.card "$(MODEL)" $(RECEIPTS)/emotion.json $(RECEIPTS)/intent.json $(RECEIPTS)/sentiment.json \
	  --data "$(DATA)" --test assets/sentiment_test.csv --readme README.md

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch goes first and by its exact version: any looser spelling pulls gigabytes of CUDA libraries.
$(VENV)/app: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) found. Install Python 3.11 or newer."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the libraries (about two minutes, once) …"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/dev: $(VENV)/app requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
