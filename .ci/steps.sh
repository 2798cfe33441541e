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
  printf '\n=== %s\n' "$heading"
  timeout --kill-after=10 "$limit" "$@" </dev/null 2>&1
  status=$?
  case $status in
    0) echo "--- ok, $((SECONDS - start)) s: $heading" ;;
    124 | 137) echo "--- FAILED, over its limit of $limit s: $heading" ;;
    *) echo "--- FAILED with status $status, $((SECONDS - start)) s: $heading" ;;
  esac
  [ $status -eq 0 ] || failures+=("$heading")
  return $status
}

# As step, for a run of pytest, whose closing line it adds up.
pytest_step() {
  local log status counts
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
