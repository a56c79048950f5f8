"""The critical batch size: critical_batch.py sweep|fit|estimate|plot [flags]."""

from launching import launch

if __name__ == "__main__":
    launch("tf_ttur.studies.critical_batch_cli:critical_batch")
