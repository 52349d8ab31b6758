"""What the tests of the data path share: namespaces, and a kernel in one that plays the node."""

from collections.abc import Callable, Iterator

import pytest

from cni.network.desired import NetworkOptions
from tests.network.namespaces import Namespace, NodeKernel, make_node, need_programs

MakeNamespace = Callable[[], Namespace]
MakeKernel = Callable[..., NodeKernel]


@pytest.fixture
def new_namespace() -> Iterator[MakeNamespace]:
    """Make namespaces, and let go of them after the test."""
    need_programs("ip", "nsenter")
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace())
        return made[-1]

    yield make
    for namespace in made:
        namespace.close()


@pytest.fixture
def pod_side(new_namespace: MakeNamespace) -> Namespace:
    """Give a pod's namespace."""
    return new_namespace()


@pytest.fixture
def router(new_namespace: MakeNamespace) -> Namespace:
    """Give the namespace that plays the VPC and the internet."""
    return new_namespace()


@pytest.fixture
def node(new_namespace: MakeNamespace, router: Namespace) -> Namespace:
    """Give a node with two ENIs."""
    made = new_namespace()
    make_node(made, router)
    return made


@pytest.fixture
def new_kernel(node: Namespace) -> Iterator[MakeKernel]:
    """Make kernels in the node, and close them after the test."""
    made: list[NodeKernel] = []

    def make(options: NetworkOptions | None = None, **named: object) -> NodeKernel:
        made.append(NodeKernel(node, options or NetworkOptions(), **named))
        return made[-1]

    yield make
    for kernel in made:
        kernel.close()


@pytest.fixture
def kernel(new_kernel: MakeKernel) -> NodeKernel:
    """Give a kernel with the default options."""
    return new_kernel()
