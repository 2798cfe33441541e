"""What each function can do, here and in JAX; also writes `docs/capabilities.md`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np

from jaxla import factor, matfun, operators

from ._harness import Findings, run_script, say, Settings
from ._report import Figure, Table


QUESTION = """Which functions of matrices can be compiled, mapped, differentiated,
differentiated at repeated eigenvalues, lowered for CUDA and TPU, and called with
bfloat16?"""

COLUMNS = (
    "function", "jit", "vmap", "grad", "jvp", "second", "repeated", "CUDA", "TPU",
    "bfloat16",
)  # fmt: skip
NOTE = """A derivative is *yes* if it agrees with finite differences in float64 at a
generic matrix, *wrong* or *nan* if it does not, *no* if it raises; *second* is the
derivative of the gradient, *repeated* the gradient at a matrix with repeated eigenvalues
or singular values, with a dash where the result itself is not determined there. *CUDA*
and *TPU* say whether `jax.export` lowers it, which needs no such device. The result for
eigenvectors is that for their squares, which no choice of signs changes."""
PAGE = Path(__file__).parent.parent / "docs" / "capabilities.md"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A function of one square matrix, and where to look at it."""

    name: str
    fn: Callable
    repeated: bool = True  # whether the result is determined at repeated eigenvalues


def main(arguments=None):
    report = run_script("capabilities", QUESTION, measure, arguments)
    if "--smoke" not in report.command:
        PAGE.write_text(_page(report))
    return report


def measure(settings: Settings) -> Findings:
    tables = []
    groups = {"jaxla": _ours(), "jax.numpy.linalg and jax.scipy.linalg": _theirs()}
    for title, entries in groups.items():
        rows = []
        for entry in entries[: settings.choose(None, 2)]:
            rows.append((f"`{entry.name}`", *_capabilities(entry)))
            say(" ".join(map(str, rows[-1])))
        tables.append(Table(title, COLUMNS, rows))
    silent = sum(cell in ("wrong", "nan") for row in tables[0].rows for cell in row)
    missing = sum(cell == "no" for row in tables[0].rows for cell in row[-3:])
    figures = [
        Figure("wrong or nan in a row of jaxla", 0, silent),
        Figure("not on CUDA, TPU or in bfloat16 in a row of jaxla", 0, missing),
    ]
    return Findings(tables, figures)


def _capabilities(entry: Entry) -> tuple[str, ...]:
    generic, repeated = points()
    with jax.enable_x64(True):
        single = jax.tree.leaves(entry.fn(generic))
        jit = _says(lambda: _same(jax.tree.leaves(jax.jit(entry.fn)(generic)), single))
        mapped = lambda: jax.tree.leaves(jax.vmap(entry.fn)(jnp.stack([generic] * 2)))
        vmap = _says(lambda: _same([x[1] for x in mapped()], single))
        grad = _says(lambda: _gradient(entry.fn, generic))
        jvp = _says(lambda: _tangent(entry.fn, generic))
        second = _says(lambda: _second(entry.fn, generic)) if grad == "yes" else "no"
        ties = _says(lambda: _gradient(entry.fn, repeated)) if entry.repeated else "-"
    half = jnp.asarray(generic, jnp.bfloat16)
    return (
        jit, vmap, grad, jvp, second, ties, _lowers(entry.fn, "cuda"),
        _lowers(entry.fn, "tpu"),
        _says(lambda: _is_half(entry.fn(half))),
    )  # fmt: skip


def points() -> tuple[np.ndarray, np.ndarray]:
    """Symmetric positive definite matrices: a generic one, and one with ties."""
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    generic, repeated = (
        (q * np.array(w)) @ q.T for w in ([0.4, 0.9, 1.7, 2.6], [1.0, 1, 2, 2])
    )
    return (generic + generic.T) / 2, (repeated + repeated.T) / 2


def _says(check: Callable[[], str]) -> str:
    try:
        return check()
    except Exception:  # what it raises is the point
        return "no"


def _same(actual, expected) -> str:
    pairs = zip(actual, expected, strict=True)
    return "yes" if all(np.allclose(x, y, 1e-8, 1e-8) for x, y in pairs) else "wrong"


def _loss(fn: Callable) -> Callable:
    """A smooth number made of all results, from a matrix and a symmetric direction."""
    rng = np.random.default_rng(1)
    direction = rng.standard_normal((4, 4))
    direction = direction + direction.T

    def loss(t, a):
        rng = np.random.default_rng(2)
        out = jax.tree.leaves(fn(a + t * direction))
        return sum(jnp.sum(x * rng.standard_normal(x.shape)) for x in out)

    return loss


def _difference(fn: Callable, a) -> np.ndarray:
    return np.asarray((fn(1e-5, a) - fn(-1e-5, a)) / 2e-5)


def _gradient(fn: Callable, a) -> str:
    return _verdict(jax.grad(_loss(fn))(0.0, a), _difference(_loss(fn), a))


def _tangent(fn: Callable, a) -> str:
    loss = _loss(fn)
    _, actual = jax.jvp(lambda t: loss(t, a), (0.0,), (1.0,))
    return _verdict(actual, _difference(loss, a))


def _second(fn: Callable, a) -> str:
    slope = jax.grad(_loss(fn))
    return _verdict(jax.jacfwd(slope)(0.0, a), _difference(slope, a))


def _verdict(actual, expected) -> str:
    if not np.isfinite(actual):
        return "nan"
    close = abs(actual - expected) <= 1e-4 * max(abs(expected), 1e-2)
    return "yes" if close else "wrong"


def _lowers(fn: Callable, platform: str) -> str:
    spec = jax.ShapeDtypeStruct((16, 4, 4), jnp.float32)
    exported = lambda: jax.export.export(jax.jit(fn), platforms=[platform])(spec)
    return _says(lambda: "yes" if exported() else "no")


def _is_half(out) -> str:
    floats = [x for x in jax.tree.leaves(out) if jnp.issubdtype(x.dtype, jnp.floating)]
    return "yes" if floats[0].dtype == jnp.bfloat16 else "wider"


def _page(report) -> str:
    parts = ["# What works where", NOTE, f"Made with JAX {jax.__version__} by"]
    parts.append(f"    {report.command}")
    for table in report.tables:
        rows = [table.columns, ("---",) * len(table.columns), *table.rows]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        parts += [f"## {table.title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _one(size: int) -> np.ndarray:
    return np.arange(1.0, size + 1)


def _like(a, values):
    """A constant of the dtype of `a`."""
    return jnp.asarray(values, a.dtype)


def _ours() -> list[Entry]:
    m, f = matfun, factor
    eye = lambda a: _like(a, np.eye(4))
    kron = lambda a: operators.Kronecker(a, _like(a, np.eye(2)), symmetric=True)
    sums = lambda a: operators.KroneckerSum(a, _like(a, np.eye(2)), symmetric=True)
    return [
        Entry("factor.eigh", lambda a: (lambda e: (e[0], e[1] ** 2))(f.eigh(a)), False),
        Entry(
            "factor.eigh, broadening=0",
            lambda a: (lambda e: (e[0], e[1] ** 2))(f.eigh(a, broadening=0.0)),
            False,
        ),
        Entry(
            "factor.svd, broadening=0",
            lambda a: (lambda e: (e[0] ** 2, e[1], e[2] ** 2))(f.svd(a, broadening=0.0)),
            False,
        ),
        Entry("factor.eigvalsh", lambda a: f.eigvalsh(a) ** 2, False),
        Entry("factor.eigvalsh, sum of squares", lambda a: (f.eigvalsh(a) ** 2).sum(-1)),
        Entry("factor.eigh_relative", lambda a: f.eigh_relative(a)[0], False),
        Entry(
            "factor.eigvals_tridiagonal",
            lambda a: f.eigvals_tridiagonal(
                jnp.diagonal(a, 0, -2, -1), jnp.diagonal(a, 1, -2, -1)
            ),
        ),
        Entry("factor.diagonality_potential", f.diagonality_potential),
        Entry(
            "factor.pivoted_diagonalization",
            lambda a: f.pivoted_diagonalization(a, steps=9, pivots="cyclic")[0],
            False,
        ),
        Entry(
            "factor.pivoted_orthogonalization",
            lambda a: f.pivoted_orthogonalization(a, steps=9, pivots="cyclic")[0],
            False,
        ),
        Entry("matfun.inverse_pth_root", lambda a: m.inverse_pth_root(a, 4).root),
        Entry(
            'matfun.inverse_pth_root, method="eigh"',
            lambda a: m.inverse_pth_root(a, 4, method="eigh").root,
        ),
        Entry("matfun.psd_power", lambda a: m.psd_power(a, -0.3)),
        Entry("matfun.sqrtm", lambda a: m.sqrtm(a).root),
        Entry("matfun.inverse_sqrtm", lambda a: m.inverse_sqrtm(a).root),
        Entry(
            "matfun.taylor_sqrtm",
            lambda a: m.taylor_sqrtm(a, degree=200, backward_steps=20).root,
        ),
        Entry(
            "matfun.pade_sqrtm",
            lambda a: m.pade_sqrtm(a, degree=16, backward_steps=20).root,
        ),
        Entry("matfun.polar", lambda a: m.polar(a)[:2]),
        Entry("matfun.orthogonalize", m.orthogonalize),
        Entry("matfun.signm", lambda a: m.signm(a - 1.3 * eye(a)).value),
        Entry("matfun.symmetric_function", lambda a: m.symmetric_function(a, jnp.exp)),
        Entry("matfun.logm", lambda a: m.logm(a).value),
        Entry("matfun.eigenvalue_bound", m.eigenvalue_bound),
        Entry(
            "matfun.solve_symmetric_lyapunov",
            lambda a: m.solve_symmetric_lyapunov(a, eye(a) + a).solution,
        ),
        Entry(
            "matfun.solve_sylvester",
            lambda a: m.solve_sylvester(a, a + eye(a), eye(a)).solution,
        ),
        Entry(
            "matfun.solve_continuous_lyapunov",
            lambda a: m.solve_continuous_lyapunov(-a, eye(a)).solution,
        ),
        Entry(
            "matfun.solve_discrete_lyapunov",
            lambda a: m.solve_discrete_lyapunov(a / 3, eye(a)).solution,
        ),
        Entry(
            "matfun.solve_continuous_are",
            lambda a: m.solve_continuous_are(a, eye(a), eye(a), eye(a)).solution,
        ),
        Entry(
            "matfun.solve_discrete_are",
            lambda a: m.solve_discrete_are(a, eye(a), eye(a), eye(a)).solution,
        ),
        Entry("matfun.project_psd", lambda a: m.project_psd(a - 1.3 * eye(a))),
        Entry("matfun.project_nuclear_ball", lambda a: m.project_nuclear_ball(a, 3.0)),
        Entry("matfun.project_spectral_ball", lambda a: m.project_spectral_ball(a, 1.2)),
        Entry(
            "matfun.project_nuclear_epigraph",
            lambda a: m.project_nuclear_epigraph(2.0, a),
        ),
        Entry(
            "matfun.project_spectral_epigraph",
            lambda a: m.project_spectral_epigraph(1.2, a),
        ),
        Entry(
            "matfun.project_sum_of_largest_epigraph",
            lambda a: m.project_sum_of_largest_epigraph(1.2, a, k=2),
        ),
        Entry(
            "matfun.project_log_det_cone",
            lambda a: m.project_log_det_cone(-2.0, 1.0, a - 1.3 * eye(a)),
        ),
        Entry(
            "matfun.project_trace_inverse_cone",
            lambda a: m.project_trace_inverse_cone(1.0, 1.0, a),
        ),
        Entry("matfun.prox_nuclear", lambda a: m.prox_nuclear(a, 1.2)),
        Entry("matfun.prox_spectral_norm", lambda a: m.prox_spectral_norm(a, 1.2)),
        Entry("matfun.prox_sum_of_largest", lambda a: m.prox_sum_of_largest(a, 0.3, k=2)),
        Entry("matfun.prox_neg_log_det", lambda a: m.prox_neg_log_det(a, 1.2)),
        Entry("matfun.prox_trace_inverse", lambda a: m.prox_trace_inverse(a, 1.2)),
        Entry("matfun.prox_entropy", lambda a: m.prox_entropy(a, 1.2)),
        Entry("operators.Kronecker.solve", lambda a: kron(a).solve(_like(a, _one(8)))),
        Entry("operators.Kronecker.logdet", lambda a: kron(a).slogdet().logabsdet),
        Entry(
            "operators.DampedKronecker.solve",
            lambda a: kron(a).plus_identity(0.5).solve(_like(a, _one(8))),
        ),
        Entry(
            "operators.DampedKronecker.logdet",
            lambda a: kron(a).plus_identity(0.5).slogdet().logabsdet,
        ),
        Entry("operators.KroneckerSum.solve", lambda a: sums(a).solve(_like(a, _one(8)))),
        Entry(
            "operators.nearest_kronecker",
            lambda a: operators.nearest_kronecker(a, (2, 2))[:2],
        ),
    ]


def _theirs() -> list[Entry]:
    linalg = jnp.linalg
    eye = lambda a: jnp.broadcast_to(_like(a, np.eye(4)), a.shape)
    each = lambda fn: jnp.vectorize(fn, signature="(n,n)->(n,n)")

    def sylvester(a):
        fn = jnp.vectorize(jsl.solve_sylvester, signature="(n,n),(n,n),(n,n)->(n,n)")
        return jnp.real(fn(a, a + eye(a), eye(a)))

    def by_svd(a):
        u, _, vt = linalg.svd(a)
        return u @ vt

    def by_eigh(a):
        w, v = linalg.eigh(a)
        return (v * jnp.sqrt(w)[..., None, :]) @ v.mT

    return [
        Entry("eigh", lambda a: (lambda e: (e[0], e[1] ** 2))(linalg.eigh(a)), False),
        Entry("eigvalsh, sum of squares", lambda a: (linalg.eigvalsh(a) ** 2).sum(-1)),
        Entry(
            "svd",
            lambda a: (lambda e: (e[0] ** 2, e[1], e[2] ** 2))(linalg.svd(a)),
            False,
        ),
        Entry("square root through eigh", by_eigh),
        Entry("polar factor through svd", by_svd),
        Entry("scipy.linalg.polar", lambda a: each(lambda x: jsl.polar(x)[0])(a)),
        Entry("scipy.linalg.sqrtm", lambda a: jnp.real(each(jsl.sqrtm)(a))),
        Entry("scipy.linalg.expm", jsl.expm),
        Entry("scipy.linalg.funm", lambda a: jnp.real(each(_their_log)(a))),
        Entry("scipy.linalg.solve_sylvester", sylvester),
        Entry(
            "scipy.linalg.eigh_tridiagonal",
            lambda a: jnp.vectorize(
                lambda d, e: jsl.eigh_tridiagonal(d, e, eigvals_only=True),
                signature="(n),(m)->(n)",
            )(jnp.diagonal(a, 0, -2, -1), jnp.diagonal(a, 1, -2, -1)),
        ),
        Entry("scipy.linalg.schur", lambda a: each(lambda x: jsl.schur(x)[0])(a), False),
        Entry("eig", lambda a: jnp.real(linalg.eig(a)[0]), False),
        Entry("inv", linalg.inv),
        Entry("pinv", linalg.pinv),
        Entry("slogdet", lambda a: linalg.slogdet(a)[1]),
        Entry("cholesky", linalg.cholesky),
        Entry("qr", lambda a: linalg.qr(a)[1], False),
    ]


def _their_log(a):
    return jsl.funm(a, jnp.log)


if __name__ == "__main__":
    main()
