"""What `torch.compile` must be told, so that rows of all lengths share a graph."""

_MOST_GRAPHS = 32
"""Of one function: a scan and a training step read packed and padded rows, with and without features and logits."""


def compile_for_all_lengths() -> None:
    """Lets one graph serve all numbers of tokens, and allows as many graphs as the ways in which a model is read.

    By default PyTorch takes the shapes of tensors that it finds through a module's hooks for constants, and gives up
    after 8 graphs of a function, from which point on the model runs uncompiled. The positions of the answers reach the
    output embedding through such a hook. Also by default, a graph that was made without hooks on a module is used when
    there are some, which then read nothing; to notice them, the hooks of each module are compared at each call.
    """
    import torch._dynamo

    torch._dynamo.config.force_nn_module_property_static_shapes = False
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
