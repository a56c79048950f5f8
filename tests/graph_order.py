"""Which operations on a variable may run in either order, read off a graph."""

import contextlib

from tensorflow.python.eager import context

# These only look at a variable; anything else that takes its handle may change it.
READS = {"ReadVariableOp", "VarIsInitializedOp", "Identity"}
RESOURCE = 20  # DT_RESOURCE of types.proto


@contextlib.contextmanager
def collected():
    """Gives a list that holds, afterwards, the graphs that ran inside, as they ran."""
    graphs = []
    own = context.context()
    own.ensure_initialized()
    own.enable_graph_collection()
    own.enable_run_metadata()
    try:
        yield graphs
        metadata = own.export_run_metadata()
        graphs += [each.post_optimization_graph for each in metadata.function_graphs]
    finally:
        own.disable_run_metadata()
        own.disable_graph_collection()


def operations(graph):
    """The operations on each variable, by the name of its handle's source."""
    nodes = {node.name: node for node in graph.node}
    found = {}
    for node in graph.node:
        for given in node.input:
            source = nodes.get(given.partition(":")[0])
            while source is not None and source.op == "Identity":
                source = nodes[source.input[0].partition(":")[0]]
            if source is None or source.op not in ("_Arg", "VarHandleOp"):
                continue
            if source.op == "_Arg" and source.attr["T"].type != RESOURCE:
                continue
            found.setdefault(source.name, []).append(node)
    return found


def unordered(graph):
    """Pairs of an update of a variable and another operation on it without an order."""
    inputs = {
        node.name: [given.lstrip("^").partition(":")[0] for given in node.input]
        for node in graph.node
    }

    def before(name):
        known, ahead = set(), [name]
        while ahead:
            for each in inputs[ahead.pop()]:
                if each not in known:
                    known.add(each)
                    ahead.append(each)
        return known

    pairs = set()
    for nodes in operations(graph).values():
        earlier = {node.name: before(node.name) for node in nodes}
        for update in nodes:
            for other in nodes:
                if update.op in READS or update.name == other.name:
                    continue
                if (
                    other.name not in earlier[update.name]
                    and update.name not in earlier[other.name]
                ):
                    pairs.add((update.name, other.name))
    return pairs
