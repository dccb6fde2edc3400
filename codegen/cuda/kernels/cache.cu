/* cache.cu: how the cache keeps the numbers of a head. A state is [sequence][head], and of each head [context][dim] numbers of C,
 * so its positions follow each other; cache_int8.cu has the form in 8 bits. */

/* One head of one sequence; `head` is where it begins. A warp takes part in step_of and store. */
template <class C, u32 dim> struct Cache {
    /* C's from head to head; before a position of head h. */
    DEVICE u64 stride(u32 context) { return (u64)context * dim; }
    DEVICE u64 place(u32 h, u32 context, u32 position) { return ((u64)h * context + position) * dim; }
    /* What the numbers of a position are multiplied with; those of a tile of the ring, of which it is position i. */
    DEVICE float step(global<const C>, u32, u32) { return 1; }
    DEVICE float tile_step(shared<C>, u32) { return 1; }
    /* A new position's step, and what is kept of one of its numbers. */
    template <class P> DEVICE float step_of(P) { return 1; }
    DEVICE float kept(float v, float) {
        C c;
        from_float(v, c);
        return to_float(c);
    }
    template <class P> DEVICE void store(P x, global<C> head, u32, u32 position) {
        for (u32 i = lane(); i < dim; i += 32) from_float(x[i], head[(u64)position * dim + i]);
    }
};
