// GELU with the error function (Hendrycks & Gimpel 2016), and OpenAI's x sigmoid(1.702 x).

#define SLOPE 1.702f

KERNEL(activate)(const value *x, value *y, index_t count, int quick) {
    index_t at = place();
    if (at >= count)
        return;
    float a = to_float(x[at]);
    float share = quick ? 1 / (1 + expf(-SLOPE * a)) : 0.5f * (1 + erff(a * 0.70710678f));
    put(&y[at], a * share);
}

KERNEL(activate_back)(const value *x, const value *dy, value *dx, index_t count, int quick) {
    index_t at = place();
    if (at >= count)
        return;
    float a = to_float(x[at]), slope;
    if (quick) {
        float share = 1 / (1 + expf(-SLOPE * a));
        slope = share + SLOPE * a * share * (1 - share);
    } else {
        float share = 0.5f * (1 + erff(a * 0.70710678f));
        slope = share + a * 0.39894228f * expf(-0.5f * a * a);
    }
    put(&dx[at], to_float(dy[at]) * slope);
}
