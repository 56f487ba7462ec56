// How fast a GPU reads its memory, and how fast it multiplies matrices: what bounds any model on it.
//
//   nvcc -O3 -arch=native roofs.cu -lcublas -o roofs && ./roofs
//
// Prints JSON. Each figure is the best of a few passes: a neighbour can only make it lower. Reading is
// what a model does with its weights: every byte once, added up so that nothing can be left out. Products
// are of 16-bit numbers that are no zeros (with zeros some cards are quicker), sums of 32 bits.

#include <cublas_v2.h>
#include <cuda_fp16.h>
#include <cstdio>
#include <cstdlib>

#define CHECK(call)                                                                      \
    do {                                                                                 \
        cudaError_t told = (call);                                                       \
        if (told != cudaSuccess) {                                                       \
            fprintf(stderr, "%s: %s\n", #call, cudaGetErrorString(told));                \
            return 1;                                                                    \
        }                                                                                \
    } while (0)

__global__ void fill(uint4 *data, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        unsigned x = (unsigned)i * 2654435761u;
        data[i] = make_uint4(x, x ^ 0x9e3779b9u, x + 1, x * 3);
    }
}

__global__ void halves(__half *data, size_t n) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x)
        data[i] = __float2half(((unsigned)(i * 2654435761u) >> 8) / 16777216.0f - 0.5f);
}

__global__ void read_all(const uint4 *data, size_t n, unsigned *sum) {
    unsigned total = 0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint4 four = data[i];
        total += four.x ^ four.y ^ four.z ^ four.w;
    }
    if (total == 42) *sum = total;  // never left out by the compiler, hardly ever done
}

int main() {
    cudaDeviceProp card;
    CHECK(cudaGetDeviceProperties(&card, 0));
    const size_t bytes = (size_t)4 << 30, n = bytes / sizeof(uint4);
    const int passes = 10, side = 8192;
    uint4 *data;
    unsigned *sum;
    CHECK(cudaMalloc(&data, bytes));
    CHECK(cudaMalloc(&sum, sizeof *sum));
    const int blocks = card.multiProcessorCount * 16;
    fill<<<blocks, 512>>>(data, n);
    CHECK(cudaDeviceSynchronize());

    cudaEvent_t begin, end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    float best_read = 1e9f, best_product = 1e9f, ms;
    for (int pass = 0; pass < passes; pass++) {
        CHECK(cudaEventRecord(begin));
        read_all<<<blocks, 512>>>(data, n, sum);
        CHECK(cudaEventRecord(end));
        CHECK(cudaEventSynchronize(end));
        CHECK(cudaGetLastError());
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        if (ms < best_read) best_read = ms;
    }
    CHECK(cudaFree(data));

    __half *a, *b, *c;
    const size_t count = (size_t)side * side;
    CHECK(cudaMalloc(&a, count * sizeof *a));
    CHECK(cudaMalloc(&b, count * sizeof *b));
    CHECK(cudaMalloc(&c, count * sizeof *c));
    halves<<<blocks, 512>>>(a, count);
    halves<<<blocks, 512>>>(b, count);
    cublasHandle_t handle;
    if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) return 1;
    const float one = 1, zero = 0;
    for (int pass = 0; pass < passes; pass++) {
        CHECK(cudaEventRecord(begin));
        if (cublasGemmEx(handle, CUBLAS_OP_N, CUBLAS_OP_N, side, side, side, &one, a, CUDA_R_16F, side, b, CUDA_R_16F,
                         side, &zero, c, CUDA_R_16F, side, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT) !=
            CUBLAS_STATUS_SUCCESS)
            return 1;
        CHECK(cudaEventRecord(end));
        CHECK(cudaEventSynchronize(end));
        CHECK(cudaEventElapsedTime(&ms, begin, end));
        if (ms < best_product) best_product = ms;
    }
    printf("{\"gpu\": \"%s\", \"compute_capability\": \"%d.%d\", \"multiprocessors\": %d, \"l2_mib\": %d,\n"
           " \"read_bytes_per_s\": %.4g, \"fp16_operations_per_s\": %.4g}\n",
           card.name, card.major, card.minor, card.multiProcessorCount, card.l2CacheSize >> 20,
           bytes / (best_read * 1e-3), 2.0 * side * side * (double)side / (best_product * 1e-3));
    return 0;
}
