//! The driver as a process: the demo, and tests through its CSI socket.
