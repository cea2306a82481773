"""Architectures of the campaign as ONNX files, in float32 or in double."""

from __future__ import annotations

from typing import Any

import numpy as np

from studies.soundness_campaign.networks import Architecture, Params


def to_onnx(architecture: Architecture, params: Params, kind: Any) -> bytes:
    """Returns the bytes of a model of [1, n] -> [1, k] in one float type.

    For dense layers and relu, leaky_relu, abs, clip, max_half and max_pair.
    """
    import onnx
    from onnx import helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []
    number = np.dtype(kind)
    proto = helper.np_dtype_to_tensor_dtype(number)

    def constant(value: Any, dtype: Any = number) -> str:
        name = f"c{len(constants)}"
        constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def half(value: str, start: int, end: int) -> str:
        ends = (constant([v], np.int64) for v in (start, end, 1))
        return add("Slice", value, *ends)

    value, width = "x", architecture.shape[0]
    for layer, p in zip(architecture.layers, params, strict=True):
        kind_of, _, _ = layer.partition(" ")
        match kind_of:
            case "dense":
                product = add("MatMul", value, constant(p[0].T))
                value, width = add("Add", product, constant(p[1])), len(p[1])
            case "relu":
                value = add("Relu", value)
            case "leaky_relu":
                value = add("LeakyRelu", value, alpha=0.25)
            case "abs":
                value = add("Abs", value)
            case "clip":
                value = add("Clip", value, constant(-0.5), constant(0.75))
            case "max_half":
                value = add("Max", value, constant(0.5))
            case "max_pair":
                width //= 2
                halves = half(value, 0, width), half(value, width, 2 * width)
                value = add("Max", *halves)
            case _:
                raise ValueError(f"no ONNX form of the layer {layer!r}")
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes, "campaign",
        [helper.make_tensor_value_info("x", proto, [1, architecture.shape[0]])],
        [helper.make_tensor_value_info("y", proto, [1, width])],
        constants,
    )  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()
