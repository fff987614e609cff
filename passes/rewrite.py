"""Rebuild the main function of a module binding by binding: the frame of every pass here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_qnn._tvm import relax, tvm
from tvm_qnn.ops import is_op


class Rewriter:
    """What a pass sees while it rebuilds ``main``.

    A pass gives :func:`rewrite` a function ``visit(rewriter, call, name)`` that is called for each
    bound call with arguments already rebuilt, and returns its replacement, or None to keep it.
    """

    def __init__(self, builder: Any, main: Any) -> None:
        self.builder = builder
        self.new: dict[Any, Any] = {}
        self.current: Any = None
        self._taken: set[str] = set()
        self._users = users_of(main)

    def used_only_by(self, *ops: str) -> bool:
        """Tell whether calls of ``ops`` alone read the binding that is being rebuilt."""
        return all(is_op(user, *ops) for user in self._users.get(self.current, []))

    def rebuilt(self, expr: Any) -> Any:
        """Return the counterpart of an expression of the old function."""
        if isinstance(expr, relax.Var):
            return self.new.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self.rebuilt(e) for e in expr.fields])
        if isinstance(expr, relax.TupleGetItem):
            whole = self.rebuilt(expr.tuple_value)
            if isinstance(whole, relax.Tuple):
                return whole.fields[expr.index]
            return relax.TupleGetItem(whole, expr.index)
        if isinstance(expr, relax.Call):
            args = [self.rebuilt(a) for a in expr.args]
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args, expr.span)
        return expr

    def emit(self, expr: Any, name: str = "") -> Any:
        """Bind ``expr`` to a new variable of that name (made unique) and return it."""
        if isinstance(expr, relax.Var | tvm.ir.GenericConst | relax.Tuple):
            return expr
        unique, count = name, 0
        while unique and unique in self._taken:
            count += 1
            unique = f"{name}_{count}"
        self._taken.add(unique)
        return self.builder.emit(expr, unique)

    def function(self, func: Any, name: str) -> Any:
        """Add a PrimFunc to the module; see :func:`add_function`."""
        return add_function(self.builder, func, name)

    def definition(self, expr: Any) -> Any:
        """Return the call that a variable is bound to, or the expression itself."""
        if isinstance(expr, relax.Var):
            bound = self.builder.lookup_binding(expr)
            return expr if bound is None else self.definition(bound)
        return expr

    def defined_by(self, expr: Any, *ops: str) -> Any | None:
        """Return the call of one of ``ops`` that ``expr`` is bound to, or None."""
        call = self.definition(expr)
        return call if is_op(call, *ops) else None


def users_of(main: Any) -> dict[Any, list[Any]]:
    """Map each variable to what reads it: calls, or the function's result."""
    users: dict[Any, list[Any]] = {}

    def note(expr: Any, user: Any) -> None:
        if isinstance(expr, relax.Var):
            users.setdefault(expr, []).append(user)
        elif isinstance(expr, relax.Tuple):
            for part in expr.fields:
                note(part, user)
        elif isinstance(expr, relax.TupleGetItem):
            note(expr.tuple_value, user)

    for block in main.body.blocks:
        for binding in block.bindings:
            value = binding.value
            for arg in value.args if isinstance(value, relax.Call) else [value]:
                note(arg, value)
    note(main.body.body, None)
    return users


Visit = Callable[[Rewriter, Any, str], Any]


def rewrite(mod: Any, visit: Visit, extra: Sequence[Any] = ()) -> Any:
    """Return ``mod`` with ``main`` rebuilt by ``visit``; unused bindings are removed.

    Args:
        mod: a module whose ``main`` is a sequence of pure bindings.
        visit: see :class:`Rewriter`.
        extra: variables that ``visit`` uses (and may still add to) and that become the last
            parameters of ``main``.
    """
    mod = relax.transform.Normalize()(mod)
    main = mod["main"]
    others = {gv: f for gv, f in mod.functions.items() if gv.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.IRModule(others))
    rewriter = Rewriter(builder, main)
    params = [relax.Var(name_of(p), p.ty) for p in main.params]
    rewriter.new.update(zip(main.params, params, strict=True))
    with builder.function("main", params):
        with builder.dataflow():
            for block in main.body.blocks:
                for binding in block.bindings:
                    value = rewriter.rebuilt(binding.value)
                    name = name_of(binding.var)
                    rewriter.current = binding.var
                    if isinstance(value, relax.Call):
                        value = builder.normalize(value)
                        replaced = visit(rewriter, value, name)
                        value = value if replaced is None else replaced
                    rewriter.new[binding.var] = rewriter.emit(value, name)
            result = rewriter.rebuilt(main.body.body)
            result = builder.emit_output(result)
        builder.emit_func_output(result)
    rebuilt = builder.get()
    main_again = rebuilt["main"]
    if extra:
        main_again = relax.Function(
            [*main_again.params, *extra], main_again.body, main_again.ret_ty, main_again.is_pure
        )
    attrs = {**(dict(main.attrs) if main.attrs else {}), "global_symbol": "main"}
    rebuilt["main"] = main_again.with_attrs(attrs)
    return relax.transform.DeadCodeElimination(["main"])(rebuilt)


def add_function(builder: Any, func: Any, name: str) -> Any:
    """Add a PrimFunc to a module (equal ones once) and return its global variable."""
    return builder.add_func(func.without_attr("global_symbol"), name)


def name_of(var: Any) -> str:
    """Return the name hint of a Relax variable."""
    return str(var.name_hint if hasattr(var, "name_hint") else var.name)


def constant(expr: Any) -> NDArray[Any] | None:
    """Return the array of a constant expression, or None."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def calls(mod: Any) -> list[tuple[str, Any]]:
    """Return the bound calls of ``main`` in order, with the names of their variables."""
    return [
        (name_of(binding.var), binding.value)
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
    ]


def per_channel(values: NDArray[Any], ndim: int, axis: int) -> NDArray[np.float64] | None:
    """Read a constant that broadcasts against ``ndim`` axes as a vector along ``axis``.

    Returns:
        float64 of shape [1] or [C], or None if the constant varies along another axis.
    """
    shape = [1] * (ndim - values.ndim) + list(values.shape)
    if len(shape) != ndim or any(n != 1 for i, n in enumerate(shape) if i != axis % ndim):
        return None
    return values.reshape(-1).astype(np.float64)
