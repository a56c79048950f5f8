"""What XLA compiles is kept for the next start."""

import os
import subprocess
import sys

from tf_ttur.compilation import compilation_cache


def test_compiled_programs_are_kept_for_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setenv("TTUR_CACHE", str(tmp_path))
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_min_cluster_size=4")
    assert compilation_cache() is None  # too late: TensorFlow runs already
    monkeypatch.delitem(sys.modules, "tensorflow")
    folder = compilation_cache()
    assert folder.parent == tmp_path / "xla"
    flags = os.environ["TF_XLA_FLAGS"].split()
    assert flags == [
        "--tf_xla_min_cluster_size=4",
        f"--tf_xla_persistent_cache_directory={folder}",
        "--tf_xla_persistent_cache_device_types=CPU",
    ]
    assert compilation_cache() is None  # the user's own choice is left alone
    code = (
        "import tensorflow as tf; "
        "print(tf.function(lambda x: tf.tanh(x) @ x, jit_compile=True)(tf.eye(3)))"
    )
    for _ in range(2):  # the second one reads what the first one wrote
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        assert len(list(folder.iterdir())) == 1
