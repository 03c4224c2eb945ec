"""Prints the native kernels beside the torch path: `python benchmarks/kernels.py`. The measuring is the package's."""

from multiflora_kernels.benchmark import main, run

__all__ = ["main", "run"]

if __name__ == "__main__":
    main()
