"""What the sandbox takes from the kernel beside namespaces: a filter of system calls, and a memory cgroup."""
