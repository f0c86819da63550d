"""How a function of fairseq is wrapped: in place, once."""

import functools


def wrap(owner, name, hook):
    """Replaces `owner.name` by `hook(original, *args, **kwargs)`; a second call with the same hook changes nothing.

    Args:
        owner: module or class of fairseq that callers look `name` up in.
        name: the attribute; a function or method.
        hook: receives the original as its first argument.
    """
    original = getattr(owner, name)
    installed = getattr(original, "mhmoe_hooks", ())
    name_of_hook = f"{hook.__module__}.{hook.__qualname__}"
    if name_of_hook in installed:
        return

    @functools.wraps(original)  # copies the function's attributes too: fairseq keeps state there
    def wrapped(*args, **kwargs):
        return hook(original, *args, **kwargs)

    wrapped.mhmoe_hooks = (*installed, name_of_hook)
    setattr(owner, name, wrapped)
