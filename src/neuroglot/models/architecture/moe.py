"""A layer that is a native mixture of experts: the weights of its neurons, and the sites at which they are read.

The neurons of a layer are numbered expert by expert, and those of shared experts (or of a dense FFN beside the experts)
come last. A token reaches the experts that the router chose for it; on others its neurons are 0 at both sites.

While a layer is observed or edited its experts are computed here, with the model's own weights, on the tokens that
reach each of them. Otherwise the model runs as transformers runs it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from neuroglot.errors import NeuroglotError
from neuroglot.models.architecture.edits import Edits, at_stream
from neuroglot.models.architecture.expert_weights import ExpertWeights, by_expert
from neuroglot.models.architecture.ffn import FFN, Layout, Observer, Rows
from neuroglot.models.architecture.reached import Reached
from neuroglot.models.architecture.routing import Routing
from neuroglot.models.architecture.sites import EAGER, Edit, Site
from neuroglot.models.architecture.weights import is_readable

__all__ = ["Mixture"]

Routed = Callable[[Tensor], None]
OfPart = Callable[[slice, Tensor, Tensor], None]

LOST = "its experts were not called"


class Mixture(FFN):
    """The experts of one layer, as one wide FFN: its neurons' weights, and hooks on its sites.

    Attributes:
        experts: how many experts the router chooses from, E.
        width: how many neurons each of them has, I.
        shared: the FFNs that every token passes besides.
        routing: what the router chooses, and how to change it.
        neurons: E · I, and those of the shared FFNs.
    """

    def __init__(self, layer: nn.Module, module: nn.Module, shared: Sequence[FFN], block: nn.Module):
        self.module = module
        self.weights = ExpertWeights(module)
        self.experts, self.width = self.weights.experts, self.weights.width
        self.shared = tuple(shared)
        self.layer, self.activation, self.down = layer, module, module
        self.gated = self.weights.gated
        self.one_site = not self.gated
        self.layout = Layout(layer, module, module, Rows(module), Rows(module) if self.gated else None)
        self.neurons = self.experts * self.width + sum(ffn.neurons for ffn in self.shared)
        self.routing = Routing(layer, block, module, self.experts)
        self._edits = {
            "activation": Edits(layer, self._attach_forward, LOST),
            "hidden": Edits(layer, self._attach_forward, LOST),
            "residual": Edits(layer, at_stream(layer), LOST),
        }
        self._observers: list[Callable[[Tensor, Tensor], None]] = []
        self._parts: list[tuple[int, OfPart]] = []
        self._routed: list[tuple[bool, Routed]] = []
        self._users = 0  # of the forward that is put in the place of the experts' own
        self._shape = threading.local()
        self._handles: list[Any] = []

    @property
    def up_rows(self) -> Float[Tensor, "neurons width"]:
        """The up-projections' rows, one a neuron; a copy of the weights."""
        return torch.cat([self.weights.up.flatten(0, 1), *(ffn.up_rows for ffn in self.shared)])

    @property
    def gate_rows(self) -> Float[Tensor, "neurons width"] | None:
        """The gate projections' rows, one a neuron; a copy of the weights; None for experts without a gate."""
        gates = [ffn.gate_rows for ffn in self.shared]
        own = self.weights.gate
        if own is None or any(each is None for each in gates):
            return None
        return torch.cat([own.flatten(0, 1), *(each for each in gates if each is not None)])

    @property
    def down_columns(self) -> Float[Tensor, "width neurons"]:
        """The down-projections' columns, one a neuron; a copy of the weights."""
        own = self.weights.down.transpose(0, 1).flatten(1)
        return torch.cat([own, *(ffn.down_columns for ffn in self.shared)], 1)

    @property
    def projections(self) -> list[nn.Module]:
        """The modules that hold its weights."""
        return [self.module, *(part for ffn in self.shared for part in ffn.projections)]

    @property
    def readable(self) -> bool:
        """Whether its weights' numbers can be read and written, as `FFN.readable`."""
        return all(is_readable(weight) for module in self.projections for weight in module.parameters())

    @property
    def parts(self) -> list[tuple[FFN, slice]]:
        """The shared FFNs, and which of the layer's neurons are theirs."""
        first, result = self.experts * self.width, []
        for ffn in self.shared:
            result.append((ffn, slice(first, first + ffn.neurons)))
            first += ffn.neurons
        return result

    def unseen(self) -> str | None:
        """The name of a matrix of shared experts, in the layer, whose neurons are not among these; None if all are."""
        known = {id(part) for projection in self.projections for part in projection.parameters()}
        for name, weight in self.layer.named_parameters():
            gate = weight.ndim == 2 and weight.shape[0] == 1  # one number a token, by which what they give is weighted
            if "shared" in name and weight.ndim > 1 and weight.numel() and not gate and id(weight) not in known:
                return name
        return None

    def expert(self, index: int) -> slice:
        """Which of the layer's neurons are an expert's."""
        return slice(index * self.width, (index + 1) * self.width)

    def keep(self, neurons: Int64[Tensor, " kept"]) -> Callable[[], None]:
        """Refused: experts of different widths cannot be computed.

        Raises:
            NeuroglotError: always.
        """
        raise NeuroglotError(
            "The neurons of a native mixture of experts cannot be taken out one by one, since its experts share one "
            "width; deactivate them instead."
        )

    @property
    def edited(self) -> bool:
        """Whether an intervention is in force, on its neurons or on its router."""
        return any(self._edits.values()) or self.routing.changed

    @contextmanager
    def edit(self, site: Site, change: Edit) -> Iterator[None]:
        """Put `change(x)` in the place of the tensor `x` (batch, tokens, neurons) at a site, inside the block.

        At the residual site x is (batch, tokens, width of the stream). What is put on a neuron of an expert that a
        token does not reach has no effect on that token.

        Raises:
            NeuroglotError: the layer ran and the site was not passed, or another thread runs the model.
        """
        with ExitStack() as stack:
            for ffn, part in () if site == "residual" else self.parts:
                stack.enter_context(ffn.edit(site, self._on_part(change, part)))
            stack.enter_context(super().edit(site, change))
            yield

    def _on_part(self, change: Edit, part: slice) -> Edit:
        def changed(x: Tensor) -> Tensor:
            everything = x.new_zeros(*x.shape[:-1], self.neurons)
            everything[..., part] = x
            return change(everything)[..., part]

        return changed

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer(activation, hidden)` in every forward pass of this thread, until what is given is called.

        Both tensors are (batch, tokens, neurons), after any intervention in force; 0 where a token does not reach an
        expert.
        """
        thread = threading.get_ident()
        seen: dict[int, tuple[Tensor, Tensor]] = {}
        stack = ExitStack()

        def keep(place: int) -> Callable[[Tensor, Tensor], None]:
            def kept(activation: Tensor, hidden: Tensor) -> None:
                if threading.get_ident() == thread:
                    shape = self._shape.now
                    seen[place] = activation.reshape(*shape, -1), hidden.reshape(*shape, -1)

            return kept

        def read(module: nn.Module, _: Any, __: Any) -> None:
            if module is self.layer and threading.get_ident() == thread and 0 in seen:
                sites = [[seen[place][site] for place in range(1 + len(self.shared))] for site in (0, 1)]
                seen.clear()
                observer(*(torch.cat(parts, -1) if len(parts) > 1 else parts[0] for parts in sites))

        own = keep(0)
        self._observers.append(own)
        stack.callback(self._observers.remove, own)
        for place, ffn in enumerate(self.shared, start=1):
            stack.callback(ffn.observe(keep(place)))
        stack.callback(self.layer.register_forward_hook(read).remove)
        stack.enter_context(self._computed_here())
        return stack.close

    @contextmanager
    def observe_parts(self, observer: OfPart, first: int) -> Iterator[None]:
        """Call `observer(neurons, activation, hidden)` for every expert that is reached, and every shared FFN, in every
        forward pass of this thread inside the block.

        `neurons` are the part's among the layer's; the values are (1, tokens that reach it, neurons), or those of all
        tokens for a shared FFN, (batch, tokens, neurons). Without the first so many tokens of every sequence.
        """
        thread = threading.get_ident()

        def mine(part: slice, activation: Tensor, hidden: Tensor) -> None:
            if threading.get_ident() == thread:
                observer(part, activation, hidden)

        def shared(part: slice, activation: Tensor, hidden: Tensor) -> None:
            shape = self._shape.now
            observer(part, *(each.reshape(*shape, -1)[:, first:] for each in (activation, hidden)))

        entry = (first, mine)
        with ExitStack() as stack:
            for ffn, part in self.parts:
                stack.callback(ffn.observe(partial(shared, part)))
            self._parts.append(entry)
            stack.callback(self._parts.remove, entry)
            stack.enter_context(self._computed_here())
            yield

    @contextmanager
    def observe_routing(self, observer: Routed, weighed: bool = False) -> Iterator[None]:
        """Call `observer(chosen)`, (batch, tokens, E) bool, in every forward pass of this thread inside the block.

        Or with what each expert counts on a token, 0 where it is not chosen, if that is asked for.
        """
        thread = threading.get_ident()

        def mine(chosen: Tensor) -> None:
            if threading.get_ident() == thread:
                observer(chosen)

        self._routed.append((weighed, mine))
        try:
            with self._computed_here():
                yield
        finally:
            self._routed.remove((weighed, mine))

    @contextmanager
    def _computed_here(self) -> Iterator[None]:
        """Compute the experts here inside the block."""
        if not self._users:
            self._handles = self._attach(_Forward(self))
        self._users += 1
        EAGER.__enter__()
        try:
            yield
        finally:
            EAGER.__exit__()
            self._users -= 1
            if not self._users:
                for undo in self._handles:
                    undo()

    def _attach_forward(self, _: Edit) -> Callable[[], None]:
        """Compute the experts here, which applies the edits of both sites, until what is given is called."""
        stack = ExitStack()
        stack.enter_context(self._computed_here())
        return stack.close

    @contextmanager
    def computed_by(self, forward: Callable[..., Tensor]) -> Iterator[None]:
        """Put a function in the place of the experts' forward inside the block, so that it can be compared."""
        handles = self._attach(forward)
        try:
            yield
        finally:
            for undo in handles:
                undo()

    def _attach(self, forward: Callable[..., Tensor]) -> list[Callable[[], None]]:
        def shape(module: nn.Module, args: Any, kwargs: Any) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            self._shape.now = tuple(states.shape[:2])

        name = self._forward_name
        before = self.module.__dict__.get(name)
        self.module.__dict__[name] = forward

        def put_back() -> None:
            if before is None:
                del self.module.__dict__[name]
            else:
                self.module.__dict__[name] = before

        handle = self.layer.register_forward_pre_hook(shape, with_kwargs=True, prepend=True)
        return [put_back, handle.remove]

    @property
    def _forward_name(self) -> str:
        """Of the experts' own forward: accelerate, where it moves weights, calls what it put aside."""
        return "_old_forward" if hasattr(self.module, "_hf_hook") else "forward"

    @property
    def own_forward(self) -> Callable[..., Tensor]:
        """What the model computes its experts with, when their weights are where they run."""
        own: Callable[..., Tensor] = getattr(self.module, self._forward_name)
        return own

    def computed(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the experts give of what their forward is called with, computed here."""
        states, *routed = [*args, *kwargs.values()]
        if not routed:
            return self.forward_all(states)
        flat = states.reshape(-1, states.shape[-1])
        return self.forward(flat, routed[0], routed[1]).view_as(states)

    def forward(self, states: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        """What the experts give, with edits applied and observers called.

        Args:
            states: (tokens, width of the stream).
            index: (tokens, k), the experts that are chosen for a token.
            weights: (tokens, k), what each counts.
        """
        tokens = torch.arange(len(states), device=index.device).repeat_interleave(index.shape[1])
        shape = self._read(len(states))
        reached = Reached.of(index.reshape(-1), tokens, self.experts, shape, weights.reshape(-1))
        self.routing.check(reached.experts, reached.weights)
        result = torch.zeros_like(states)
        for some, out in self.through(states, reached):
            result.index_add_(0, reached.tokens[some], (out * reached.weights[some, None]).to(states.dtype))
        return result

    def forward_all(self, states: Tensor) -> Tensor:
        """The same where the experts are given every token, times its weight: 0 where one is not chosen (Llama 4).

        Args:
            states: (E · tokens, width of the stream).
        """
        rows = states.view(self.experts, -1, states.shape[-1])
        experts, tokens = rows.ne(0).any(-1).nonzero(as_tuple=True)
        reached = Reached.of(experts, tokens, self.experts, self._read(rows.shape[1]), states.new_ones(len(experts)))
        self.routing.check(reached.experts, reached.weights)
        result = torch.zeros_like(rows)
        for some, out in self.through(rows, reached):
            result = result.index_put((reached.experts[some], reached.tokens[some]), out.to(rows.dtype))
        return result.view_as(states)

    def through(
        self, states: Float[Tensor, "*experts tokens stream"], reached: Reached
    ) -> Iterator[tuple[slice, Float[Tensor, "pairs stream"]]]:
        """What each expert gives of each token that reaches it, before it is weighted, some pairs at a time.

        Experts run one after the other, so that what is observed of one is still in the processor's cache; where an
        edit or an observer needs whole tokens, all of them run before it.

        Args:
            states: of every token; or of every token for each expert.
            reached: the pairs.
        """
        for weighed, routed in self._routed:
            routed(reached.table(reached.weights[:, None]) if weighed else reached.chosen())
        spans = list(reached.spans())
        skipped = {first: reached.uncounted(first) for first, _ in self._parts}
        if self._edits["activation"] or self._edits["hidden"] or self._observers:
            together = [(slice(0, len(reached.experts)), spans)]
        else:
            together = [(own, [(expert, own)]) for expert, own in spans]
        for some, experts in together:
            tokens = reached.tokens[some]
            picked = states[tokens] if states.ndim == 2 else states[reached.experts[some], tokens]
            sizes = [(expert, own.stop - own.start) for expert, own in experts]
            activation, hidden = self._edited(
                by_expert(picked, sizes, self.weights.first, self.weights.first_bias), reached
            )
            for expert, own in experts:
                for uncounted, observer in self._parts:
                    counted = slice(own.start - some.start + skipped[uncounted][expert], own.stop - some.start)
                    if counted.start < counted.stop:
                        observer(self.expert(expert), activation[None, counted], hidden[None, counted])
            if self._observers:
                dense = reached.table(activation)
                other = dense if self.one_site else reached.table(hidden)
                for observe in self._observers:
                    observe(dense, other)
            out = by_expert(hidden, sizes, self.weights.down, self.weights.down_bias)
            yield some, self.weights.normed(out)

    def _edited(self, first: Tensor, reached: Reached) -> tuple[Tensor, Tensor]:
        """The values of pairs at both sites, after the edits; all pairs are given where there are any."""
        activation, hidden = self.weights.sites(first)
        if self._edits["activation"]:
            edited = self._changed("activation", activation, reached)
            if self.one_site:
                activation = hidden = edited
            else:  # the others stay as they are to the bit
                factor = self.weights.factor(first)
                hidden = torch.where(edited == activation, hidden, edited * factor)
                activation = edited
        if self._edits["hidden"]:
            hidden = self._changed("hidden", hidden, reached)
        return activation, hidden

    def _read(self, count: int) -> tuple[int, int]:
        """How many sequences are read and how many tokens of each, where so many tokens are there in all."""
        shape: tuple[int, int] = self._shape.now
        if shape[0] * shape[1] != count:
            raise NeuroglotError(f"{count} tokens reach the experts where {shape[0] * shape[1]} were read.")
        return shape

    def _changed(self, site: Site, values: Tensor, reached: Reached) -> Tensor:
        """Values of pairs after the edits of a site."""
        own = self.experts * self.width
        table = F.pad(reached.table(values), (0, self.neurons - own))
        table = self._edits[site].apply(table)
        return reached.pairs(table[..., :own])

    @contextmanager
    def route(self, change: Edit, off: Bool[Tensor, " experts"]) -> Iterator[None]:
        """Put `change(logits)` in the place of the router's logits inside the block, and let no expert be chosen that
        is off.

        Raises:
            NeuroglotError: the router is not known, or in a pass: it chose an expert that is off, or did not act.
        """
        with self._computed_here(), self.routing.change(change, off):
            yield


class _Forward:
    """What runs in the place of the forward of a module of experts; a copy of the module has its own again."""

    def __init__(self, mixture: Mixture):
        self.mixture, self.thread = mixture, threading.get_ident()
        self.original: Callable[..., Tensor] = mixture.own_forward

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        mixture = self.mixture
        if threading.get_ident() != self.thread:
            for site in ("activation", "hidden"):
                mixture._edits[site].check_thread()
            return self.original(*args, **kwargs)
        return mixture.computed(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copy = memo.get(id(self.mixture.module))
        return self.original if copy is None else type(copy).forward.__get__(copy)
