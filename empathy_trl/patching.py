"""Another attribute for a while, where TRL or transformers offer no argument for what we want of them."""

from contextlib import contextmanager


@contextmanager
def patched(owner, name: str, value):
    """Let `owner.name` be `value` inside the block, and afterwards what it was before.

    Args:
        owner: a module, a class or an object. What an object only finds in its class it finds there again afterwards.
    """
    own = vars(owner)  # not getattr: it would bind methods, and copy the class's attributes into the object
    absent, usual = name not in own, own.get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if absent:
            delattr(owner, name)
        else:
            setattr(owner, name, usual)
