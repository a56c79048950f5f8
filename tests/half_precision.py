"""Whether TensorFlow computes in half precision here, which tests of it need.

TensorFlow asks the processor whether oneDNN has kernels in float16 and bfloat16.
oneDNN itself obeys ONEDNN_MAX_CPU_ISA, too. On a processor with AVX-512 of which oneDNN
may use no more than AVX2, the kernel is asked for and does not exist, and the process
ends with SIGABRT or SIGSEGV. A processor that has AVX2 alone takes the kernels of Eigen
and is tested.
"""

import os

import pytest

WITHOUT_AVX512 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2")
RESTRICTED = (
    os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in WITHOUT_AVX512
    and os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0"
)


def need():
    """Skips the test where half precision cannot be had."""
    if RESTRICTED:
        pytest.skip("ONEDNN_MAX_CPU_ISA forbids the kernels that TensorFlow asks for")
