"""Attributes of objects, classes and modules are replaced for a while and come back as they were."""

import types

import pytest

from empathy_trl.io import patched


class Base:
    def greet(self):
        return "hello"


class Child(Base):
    @staticmethod
    def part():
        return "bye"


def an_object():
    return Child()


def an_object_with_its_own():
    child = Child()
    child.greet = None  # a value like any other
    return child


def a_module():
    module = types.ModuleType("polite")
    module.greet = Base.greet
    return module


OWNERS = {
    "what an object inherits": (an_object, "greet"),
    "what an object has": (an_object_with_its_own, "greet"),
    "what a class has": (lambda: Child, "part"),
    "what a class inherits": (lambda: Child, "greet"),
    "what a module has": (a_module, "greet"),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("make, name", OWNERS.values(), ids=OWNERS)
def test_an_attribute_is_replaced_for_a_while(make, name, fails):
    owner = make()
    before = dict(vars(owner))
    try:
        with patched(owner, name, "other"):
            assert getattr(owner, name) == "other"
            if fails:
                raise KeyError(name)
    except KeyError:
        assert fails
    assert dict(vars(owner)) == before  # a static method still is one


def test_patches_may_be_nested():
    child = Child()
    with patched(child, "greet", 1):
        with patched(child, "greet", 2):
            assert child.greet == 2
        assert child.greet == 1
    assert child.greet() == "hello"
