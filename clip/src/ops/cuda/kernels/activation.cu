// GELU with the error function (Hendrycks & Gimpel 2016), and OpenAI's x sigmoid(1.702 x).

#define SLOPE 1.702f

KERNEL(activate)(const value *x, value *y, index_t count, int quick) {
    index_t at = PACK * place();
    if (at >= count)
        return;
    float a[PACK];
    load(a, x, at, count);
    for (int i = 0; i < PACK; ++i)
        a[i] *= quick ? 1 / (1 + expf(-SLOPE * a[i])) : 0.5f * (1 + erff(a[i] * 0.70710678f));
    store(y, at, count, a);
}

KERNEL(activate_back)(const value *x, const value *dy, value *dx, index_t count, int quick) {
    combine(x, dy, dx, count, [=](float a, float g) {
        if (quick) {
            float share = 1 / (1 + expf(-SLOPE * a));
            return g * (share + SLOPE * a * share * (1 - share));
        }
        float share = 0.5f * (1 + erff(a * 0.70710678f));
        return g * (share + a * 0.39894228f * expf(-0.5f * a * a));
    });
}
