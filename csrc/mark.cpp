// The mark of the library: build.py looks for it in a library on disk, and so knows which sources and flags made it.
extern "C" const char gcl_fast_mark[] = GCL_MARK;
