# Thin verbs over CMake; "make help" lists them. Everything is built in build/.

BUILD ?= build
JOBS ?= $(shell nproc)
CONFIG ?= -DCMAKE_BUILD_TYPE=Release
EXAMPLE = examples/shakespeare

.PHONY: all setup demo test check asan tsan fuzz fmt bless docs bench install loc clean help

all: ## build everything
	@cmake -S . -B $(BUILD) -G Ninja $(CONFIG) > $(BUILD).log 2>&1 || (cat $(BUILD).log; rm -f $(BUILD).log; exit 1)
	@rm -f $(BUILD).log
	@cmake --build $(BUILD) -j $(JOBS) $(if $(TARGETS),--target $(TARGETS))

setup: ## install what is needed, from Debian's packages
	@sh tools/setup.sh

demo: setup ## compile the example model and generate text with it
	@$(MAKE) --no-print-directory all TARGETS="gptc gptc-run"
	$(BUILD)/gptc $(EXAMPLE)/model.onnx -O3 -o $(BUILD)/model.bin --tokenizer $(EXAMPLE)/tokenizer.json
	$(BUILD)/gptc-run $(BUILD)/model.bin -p "KING:" -n 100 --temp 0

test: setup ## every test, also under sanitizers; ends with "N passed, N failed, N skipped"
	@sh tests/run.sh

check: all ## the fast tests alone
	@cd $(BUILD) && ctest -j $(JOBS) --output-on-failure -LE slow

asan: ## tests under AddressSanitizer and UBSan
	@$(MAKE) --no-print-directory all BUILD=build-asan CONFIG="-DCMAKE_BUILD_TYPE=RelWithDebInfo -DGPTC_SANITIZE=address,undefined"
	@cd build-asan && ctest -j $(JOBS) --output-on-failure -LE slow

tsan: ## the runtime's tests under ThreadSanitizer
	@$(MAKE) --no-print-directory all BUILD=build-tsan CONFIG="-DCMAKE_BUILD_TYPE=RelWithDebInfo -DGPTC_SANITIZE=thread"
	@cd build-tsan && ctest --output-on-failure -R 'threads|kernels|runtime|function_workers'

fuzz: ## libFuzzer on every parser and loader, FUZZ_SECONDS each (300)
	@sh tools/setup.sh fuzz
	@sh tests/fuzz/run.sh

fmt: ## format the sources
	@git ls-files '*.c' '*.h' '*.inc' | xargs clang-format -i

bless: all ## rewrite the expected parts of pass tests
	@for f in tests/passes/*.gir; do $(BUILD)/gptc-opt $$f --bless || exit 1; done

docs: all ## write docs/ir.md and docs/onnx-ops.md from the tables
	@$(BUILD)/gen-docs ir docs/ir.md
	@$(BUILD)/gen-docs onnx-ops docs/onnx-ops.md

bench: all ## speed against other runtimes, side by side
	@sh bench/run.sh

install: all ## to PREFIX (/usr/local)
	@cmake --install $(BUILD) --prefix $(or $(PREFIX),/usr/local)

loc: ## lines per folder
	@for d in ir frontend passes codegen runtime tools tests; do \
	  printf '%-10s %6d\n' $$d $$(git ls-files $$d | grep -E '\.(c|h|inc|def)$$' | xargs cat | wc -l); done

clean: ## remove what was built
	@rm -rf build build-asan build-tsan build-fuzz

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
