"""What is otherwise tested on CPUs alone, checked on one GPU within twelve minutes: `python -m benchmarks.gpu`."""
