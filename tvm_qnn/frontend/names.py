"""Names: every binding of a module is called after the node of the source that it comes from."""

from __future__ import annotations

import keyword
import re
from typing import Any

from tvm_qnn._tvm import relax, tvm


def with_names(module: Any, sources: dict[str, str]) -> tuple[Any, dict[str, str]]:
    """Rename the variables of "main" after their sources.

    The last binding of a node gets the name of the node; what the node binds on its way gets its
    name and the operator, and so do bindings that ``sources`` does not know.

    Args:
        module: Relax module whose "main" has uniquely named variables.
        sources: Name of the variable -> name of the source node or input.

    Returns:
        The module, and for every new name of a variable the name of its source.
    """
    function = module["main"]
    wanted = {str(p.name): (sources[str(p.name)], "") for p in function.params}
    wanted |= _of_bindings(function, sources)
    renamer = _Renamer()
    function = renamer.rename(function, wanted)
    module = module.clone()
    module.update_func(module.get_global_var("main"), function)
    return module, renamer.names


def identifier(source: str, part: str = "") -> str:
    """Return the identifier that stands for the name of a node, and a part of it."""
    base = re.sub(r"\W+", "_", f"{source}_{part}" if part else source, flags=re.ASCII)
    base = base.strip("_")[:100] or "node"
    return f"n_{base}" if base[0].isdigit() or keyword.iskeyword(base) else base


def _of_bindings(function: Any, sources: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return source and part of every bound variable; "" is the part of a node's result."""
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    wanted: dict[str, tuple[str, str]] = {}
    last: dict[str, str] = {}
    source = ""
    for binding in reversed(bindings):
        # Seen from the end: a binding without a source leads to the next one that has one.
        name = str(binding.var.name)
        source = sources.get(name, source)
        if source:
            first = last.setdefault(source, name) == name
            wanted[name] = (source, "" if first else _operator(binding))
    return {str(b.var.name): wanted[str(b.var.name)] for b in bindings if str(b.var.name) in wanted}


def _operator(binding: Any) -> str:
    value = binding.value
    known = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op)
    return str(value.op.name).rsplit(".", 1)[-1] if known else "part"


@relax.expr_functor.mutator
class _Renamer(relax.PyExprMutator):
    """Replaces variables by new ones with the wanted names, made unique."""

    def rename(self, function: Any, wanted: dict[str, tuple[str, str]]) -> Any:
        self.names: dict[str, str] = {}
        self.fresh: dict[str, str] = {}
        for old, (source, part) in wanted.items():
            base = identifier(source, part)
            name, count = base, 1
            while name in self.names:
                name, count = f"{base}_{count}", count + 1
            self.names[name] = source
            self.fresh[old] = name
        params = [self.visit_var_def(p) for p in function.params]
        body = self.visit_expr(function.body)
        return relax.Function(
            params, body, function.ret_ty, function.is_pure, function.attrs, function.span
        )

    def visit_var_def_(self, var: Any) -> Any:
        return self._replaced(var, relax.Var)

    def visit_dataflow_var_def_(self, var: Any) -> Any:
        return self._replaced(var, relax.DataflowVar)

    def _replaced(self, var: Any, kind: Any) -> Any:
        name = self.fresh.get(str(var.name))
        if name is None:
            return var
        new = kind(name, var.ty)
        self.set_var_remap(var, new)
        return new
