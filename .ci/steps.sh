# Helpers of .ci/run: find interpreters, run a step under a time limit, add up.

clean_path=$PATH
failures=()
passed=0 failed=0 skipped=0

# Prints the first interpreter of one of the given versions that can make a virtual
# environment. A name on the PATH is no proof: version managers put up shims for
# interpreters that they then refuse to run.
find_python() {
  local version candidate
  for version in "$@"; do
    for candidate in "python$version" /usr/local/bin/"python$version" \
      /usr/bin/"python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version"*/bin/python; do
      if [ "$(version_of "$candidate")" = "$version" ]; then
        echo "$candidate"
        return 0
      fi
    done
  done
  return 1
}

version_of() {
  "$1" -c 'import ensurepip, sys, venv; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# step HEADING SECONDS COMMAND...: runs a command, with a heading and a time limit.
step() {
  local heading=$1 limit=$2 start=$SECONDS status
  shift 2
  printf '\n=== %s (%d s after the start)\n' "$heading" "$SECONDS"
  timeout --kill-after=10 "$limit" "$@" </dev/null 2>&1
  status=$?
  # On a line of its own, also where the command was cut off in the middle of one.
  case $status in
    0) printf '\n--- ok' ;;
    124 | 137) printf '\n--- FAILED at its limit of %d s' "$limit" ;;
    *) printf '\n--- FAILED with status %d' "$status" ;;
  esac
  echo ", $((SECONDS - start)) s: $heading"
  [ $status -eq 0 ] || failures+=("$heading")
  return $status
}

# As step, for a run of pytest, whose closing line it adds up. Two workers, and a
# compilation cache that the runs of one environment share.
pytest_step() {
  local log status counts
  local -x PYTEST_ADDOPTS="-n 2 -q --durations=10" JAX_COMPILATION_CACHE_DIR=$venv/jax-cache
  local -x JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0
  log=$(mktemp)
  # Not a pipe to tee: step would run in a subshell and forget its failure.
  step "$@" > >(tee "$log")
  status=$?
  wait $! 2>/dev/null
  counts=$(grep -E '[0-9]+ (passed|failed|skipped|errors?).* in [0-9.]+s' "$log" | tail -n 1)
  rm -f "$log"
  count passed passed "$counts"
  count skipped skipped "$counts"
  count failed 'failed' "$counts"
  count failed 'errors?' "$counts"
  # A run that crashed or hung has no closing line.
  [ -n "$counts" ] || failed=$((failed + 1))
  return $status
}

# count VARIABLE WORD LINE: adds the number before the word to the variable.
count() {
  local number
  number=$(grep -oE "[0-9]+ $2" <<<"$3" | head -n 1 | cut -d ' ' -f 1)
  printf -v "$1" '%d' "$((${!1} + ${number:-0}))"
}

# The closing lines, and the exit status of the whole.
summary() {
  printf '\n=== %d s in all\n' "$SECONDS"
  ((${#failures[@]})) && printf 'FAILED: %s\n' "${failures[@]}"
  echo "$passed passed, $failed failed, $skipped skipped"
  ((${#failures[@]} == 0))
}
