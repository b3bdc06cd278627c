"""llama.cpp's own C functions, out of the library that xllamacpp carries: logits of tokens, under a control vector.

Structures whose fields are not needed are handed on as bytes; what they hold is llama.cpp's default.
"""

import ctypes
import struct
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int8, c_int32, c_size_t, c_void_p
from pathlib import Path

import pytest
import torch


class Opaque(Structure):
    """Parameters that llama.cpp fills in; longer than any of them."""

    _fields_ = [("bytes", c_int8 * 1024)]


class Batch(Structure):
    _fields_ = [
        ("n_tokens", c_int32),
        *((name, c_void_p) for name in ("token", "embd", "pos", "n_seq", "seq", "logits")),
    ]


class Vector(Structure):
    """A file of a control vector, and how many times it is added. An old C++ string is a pointer to its letters."""

    _fields_ = [("strength", c_float), ("path", c_void_p)]


class Span(Structure):
    _fields_ = [(name, c_void_p) for name in ("first", "last", "end")]


class Loaded(Structure):
    _fields_ = [("width", c_int32), ("data", Span)]


def library():
    xllamacpp = pytest.importorskip("xllamacpp")
    (file,) = Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")
    found = ctypes.CDLL(str(file))
    for name in ("llama_model_default_params", "llama_context_default_params"):
        getattr(found, name).restype = Opaque
    for name in ("llama_model_load_from_file", "llama_init_from_model"):
        getattr(found, name).restype = c_void_p
    found.llama_model_load_from_file.argtypes = [c_char_p, Opaque]
    found.llama_init_from_model.argtypes = [c_void_p, Opaque]
    found.llama_batch_get_one.argtypes, found.llama_batch_get_one.restype = [POINTER(c_int32), c_int32], Batch
    found.llama_decode.argtypes = [c_void_p, Batch]
    found.llama_get_logits_ith.argtypes = [c_void_p, c_int32]
    found.llama_get_logits_ith.restype = POINTER(c_float)
    found.llama_set_adapter_cvec.argtypes = [c_void_p, c_void_p, c_size_t, c_int32, c_int32, c_int32]
    for name in ("llama_free", "llama_model_free", "llama_model_n_layer"):
        getattr(found, name).argtypes = [c_void_p]
    return found


def read_vector(found, path, strength=1.0):
    """The file, as llama.cpp's own reader takes it: its data and its width."""
    name = str(path).encode()
    head = struct.pack("qqq", len(name), len(name), 1)  # its length, its room, and that others hold it too
    text = ctypes.create_string_buffer(head + name)
    given = (Vector * 1)(Vector(strength, ctypes.addressof(text) + len(head)))
    start = ctypes.addressof(given)
    loaded = found["_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"]
    loaded.restype, loaded.argtypes = None, [POINTER(Loaded), POINTER(Span)]
    result, end = Loaded(), start + ctypes.sizeof(given)
    loaded(byref(result), byref(Span(start, end, end)))
    assert result.width > 0, f"llama.cpp cannot read {path}"
    return result


def logits(model, ids, vector=None):
    """Of the token after these, as llama.cpp computes them with a file of a control vector in force."""
    found = library()
    found.ggml_backend_load_all()
    opened = found.llama_model_load_from_file(str(model).encode(), found.llama_model_default_params())
    assert opened, f"llama.cpp cannot open {model}"
    context = found.llama_init_from_model(opened, found.llama_context_default_params())
    try:
        if vector is not None:
            read = read_vector(found, vector)
            count = (read.data.last - read.data.first) // ctypes.sizeof(c_float)
            layers = found.llama_model_n_layer(opened)
            assert not found.llama_set_adapter_cvec(context, read.data.first, count, read.width, 1, layers)
        tokens = (c_int32 * len(ids))(*ids)
        assert not found.llama_decode(context, found.llama_batch_get_one(tokens, len(ids)))
        size = found.llama_vocab_n_tokens(c_void_p(_vocab(found, opened)))
        return torch.tensor(found.llama_get_logits_ith(context, -1)[:size])
    finally:
        found.llama_free(context)
        found.llama_model_free(opened)


def _vocab(found, opened):
    found.llama_model_get_vocab.restype, found.llama_model_get_vocab.argtypes = c_void_p, [c_void_p]
    return found.llama_model_get_vocab(opened)
