"""Relax modules as a source: checked, with parameters bound, every binding named uniquely."""

from __future__ import annotations

from typing import Any

from tvm_qnn._tvm import relax
from tvm_qnn.errors import ModelError
from tvm_qnn.frontend.names import with_names
from tvm_qnn.frontend.record import (
    INPUT_DTYPES,
    Imported,
    Problems,
    Refused,
    TensorInfo,
    plain,
    quoted,
    reason_of,
    static_shape,
)


def import_relax(module: Any, *, name: str = "main", source: str = "relax") -> Imported:
    """Import a Relax module with one function "main".

    Weights may be constants, the attribute ``params`` (TVM's importers with
    ``keep_params_in_input``), or both; ``num_input`` says how many parameters are inputs.

    Args:
        module: The module; it is not changed.
        name: What messages call it.
        source: What :attr:`Imported.source` says.

    Raises:
        ModelError: There is no "main", or the module is not well formed.
        UnsupportedError: Shapes are symbolic, or inputs have unsupported types.
    """
    mains = [v for v in module.get_global_vars() if v.name_hint == "main"]
    if not mains or not isinstance(module["main"], relax.Function):
        raise ModelError(f'{plain(name)}: the module has no Relax function "main"')
    try:
        relax.analysis.well_formed(module)
        module = _with_parameters(module)
    except Exception as error:
        # TVM reports an ill-formed module with several exception types.
        raise ModelError(f"{plain(name)}: invalid module ({reason_of(error)})") from None
    function = module["main"]
    problems = Problems()
    for block in function.body.blocks:
        for binding in block.bindings:
            _check_binding(binding, problems)
    inputs = [_described(p, str(p.name), problems) for p in function.params]
    for info in inputs:
        if info is not None and info.dtype not in INPUT_DTYPES:
            problems.add(
                f"input {quoted(info.name)}",
                f"has type {info.dtype}; only {', '.join(INPUT_DTYPES)} inputs are supported",
            )
    outputs = [
        _described(field, f"output{k}", problems)
        for k, field in enumerate(_outputs(function.body.body))
    ]
    problems.raise_if_any(plain(name))
    module, names = with_names(module, _own_names(function))
    return Imported(
        module=module,
        inputs=tuple(i for i in inputs if i is not None),
        outputs=tuple(o for o in outputs if o is not None),
        name=plain(name),
        source=source,
        names=names,
    )


def _with_parameters(module: Any) -> Any:
    """Bind the parameters that the function attributes carry, and those only."""
    function = module["main"]
    attrs = dict(function.attrs) if function.attrs else {}
    if "params" in attrs:
        count = int(attrs.get("num_input", len(function.params) - len(attrs["params"])))
        weights = list(attrs["params"])
        if count + len(weights) != len(function.params):
            raise ValueError(f"{len(weights)} weights for {len(function.params)} - {count} params")
        bound = dict(zip(list(function.params)[count:], weights, strict=True))
        function = function.without_attr("params").bind_params(bound)
    elif int(attrs.get("num_input", len(function.params))) != len(function.params):
        raise ValueError(
            "some parameters are weights without values; bind them with relax.transform.BindParams"
        )
    module = module.clone()
    module.update_func(module.get_global_var("main"), function)
    # Nested calls become bindings of their own, so that every operation has a name.
    return relax.transform.Normalize()(module)


def _check_binding(binding: Any, problems: Problems) -> None:
    where = f"node {quoted(binding.var.name)}"
    if not isinstance(binding, relax.VarBinding):
        problems.add(where, "match_cast (a dynamic shape) is not supported")
        return
    if isinstance(binding.value, relax.If | relax.Function):
        problems.add(where, "control flow is not supported")
        return
    try:
        for field in _fields(binding.var.ty):
            static_shape(field)
    except Refused as refused:
        problems.add(where, str(refused))


def _fields(kind: Any) -> list[Any]:
    if isinstance(kind, relax.TupleType):
        return [leaf for field in kind.fields for leaf in _fields(field)]
    return [kind]


def _outputs(body: Any) -> list[Any]:
    return _fields(body.ty)


def _described(of: Any, name: str, problems: Problems) -> TensorInfo | None:
    kind = of.ty if hasattr(of, "ty") else of
    try:
        return TensorInfo(name, static_shape(kind), str(kind.dtype))
    except Refused as refused:
        problems.add(quoted(name), str(refused))
        return None


def _own_names(function: Any) -> dict[str, str]:
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    return {str(v.name): str(v.name) for v in [*function.params, *(b.var for b in bindings)]}
