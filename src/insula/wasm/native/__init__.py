"""wasmtime's C API, called straight: the only folder with ctypes.

The functions (`library.py`) take buffers that were laid out once. `Template` is a linked module, `Store` a store with one
instance of it, and `Cell` the ways into that instance; `callbacks.py` has what wasmtime calls. What owns a native handle
frees it once, however often it is closed.

Two ways into a guest
- `launch` and `poll`: on a fiber of the guest's own. A poll runs it until it is done, until it waits for an answer of the
  host, or until its slice of time is over; the next poll, in whatever thread, goes on from there.
- `call`: for small exports, without leaving this thread. A raw call, where nothing that the module imports can wait; else a
  fiber too, since a raw call that came to such an import would end the process.

What would kill the process, and what holds it off
- An exception that leaves a callback: each callback catches all of them, keeps the first (`failure`) and traps the guest.
- A fiber that is suspended while Python is on its stack: within a host function the guest is never made to yield. A helper
  export that makes room for its answer may: it is on a fiber of its own, and the guest is suspended once Python has left.
- A signature longer than the buffers, or of other types: refused before the call.
- A pointer into a memory that moved or ended: memories cannot move (config), and a freed cell has no view.
"""
