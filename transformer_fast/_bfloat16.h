/* bfloat16 as a type of NumPy, for environments without the package ml_dtypes (musl has no wheel of it).
 *
 * Called by _core.pyx when it is imported; functional/bfloat16.py decides which of the two types new arrays have. NumPy
 * keeps and copies the 16 bits; conversions from and to float32 and float64 are here, to nearest even. There is no
 * arithmetic: ufuncs convert to float32. Another conversion is a line in tfast_register_bfloat16. */
#ifndef TFAST_PYTHON_BFLOAT16_H
#define TFAST_PYTHON_BFLOAT16_H

#include <Python.h>
#include <math.h>
#include <numpy/arrayobject.h>
#include <string.h>

#include "base/convert.h"

/* By way of float, but rounded once: what a float does not hold is cut off there, and sets its last bit, which tells
 * the second rounding that more follows. */
static uint16_t bf16_from_f64(double x) {
    float single = (float)x;
    if ((double)single != x && x == x) {
        uint32_t bits;
        memcpy(&bits, &single, sizeof bits);
        bits -= fabs((double)single) > fabs(x);
        bits |= 1;
        memcpy(&single, &bits, sizeof bits);
    }
    return tfast_bf16_from_f32(single);
}

static uint16_t swapped_if(uint16_t bits, void* array) {
    return array && PyArray_ISBYTESWAPPED((PyArrayObject*)array) ? (uint16_t)(bits << 8 | bits >> 8) : bits;
}

static PyObject* bfloat16_getitem(void* data, void* array) {
    uint16_t bits;
    memcpy(&bits, data, sizeof bits);
    bits = swapped_if(bits, array);
    return PyFloat_FromDouble((double)tfast_f32_from_bf16(bits));
}

static int bfloat16_setitem(PyObject* value, void* data, void* array) {
    const double number = PyFloat_AsDouble(value);
    if (number == -1 && PyErr_Occurred()) return -1;
    const uint16_t bits = swapped_if(bf16_from_f64(number), array);
    memcpy(data, &bits, sizeof bits);
    return 0;
}

static void bfloat16_copyswap(void* to, void* from, int swap, void* array) {
    (void)array;
    if (from) memcpy(to, from, 2);
    if (!swap) return;
    char* bytes = to;
    const char first = bytes[0];
    bytes[0] = bytes[1];
    bytes[1] = first;
}

/* `from` is NULL where the bytes are swapped in place. */
static void bfloat16_copyswapn(void* to, npy_intp to_step, void* from, npy_intp from_step, npy_intp n, int swap,
                               void* array) {
    for (npy_intp i = 0; i < n; i++)
        bfloat16_copyswap((char*)to + i * to_step, from ? (char*)from + i * from_step : NULL, swap, array);
}

static npy_bool bfloat16_nonzero(void* data, void* array) {
    (void)array;
    uint16_t bits;
    memcpy(&bits, data, sizeof bits);
    return (bits & 0x7fff) != 0;
}

#define CONVERSION(name, from_type, to_type, convert)                                              \
    static void name(void* from, void* to, npy_intp n, void* from_array, void* to_array) {         \
        (void)from_array, (void)to_array;                                                          \
        for (npy_intp i = 0; i < n; i++) ((to_type*)to)[i] = convert(((const from_type*)from)[i]); \
    }
CONVERSION(bfloat16_to_float, uint16_t, float, tfast_f32_from_bf16)
CONVERSION(bfloat16_to_double, uint16_t, double, tfast_f32_from_bf16)
CONVERSION(bfloat16_from_float, float, uint16_t, tfast_bf16_from_f32)
CONVERSION(bfloat16_from_double, double, uint16_t, bf16_from_f64)
#undef CONVERSION

/* The type's descriptor; scalar is its class, which derives from numpy.generic. NULL with an exception on failure. */
static PyObject* tfast_register_bfloat16(PyObject* scalar) {
    /* NumPy keeps the pointer to the functions, and copies the rest. */
    static PyArray_ArrFuncs functions;
    PyArray_DescrProto proto;
    PyArray_InitArrFuncs(&functions);
    functions.getitem = bfloat16_getitem;
    functions.setitem = bfloat16_setitem;
    functions.copyswap = bfloat16_copyswap;
    functions.copyswapn = bfloat16_copyswapn;
    functions.nonzero = bfloat16_nonzero;
    memset(&proto, 0, sizeof proto);
    Py_SET_REFCNT((PyObject*)&proto, 1);
    Py_SET_TYPE((PyObject*)&proto, &PyArrayDescr_Type);
    Py_INCREF(scalar);
    proto.typeobj = (PyTypeObject*)scalar;
    proto.kind = 'V'; /* as that of ml_dtypes: 'f' would promise what float16 has */
    proto.type = 'E';
    proto.byteorder = '=';
    proto.flags = NPY_NEEDS_PYAPI | NPY_USE_GETITEM | NPY_USE_SETITEM;
    proto.elsize = proto.alignment = 2;
    proto.f = &functions;
    proto.hash = -1;
    const int number = PyArray_RegisterDataType(&proto);
    if (number < 0) return NULL;
    PyArray_Descr* found = PyArray_DescrFromType(number);
    PyArray_Descr* singles = PyArray_DescrFromType(NPY_FLOAT);
    PyArray_Descr* doubles = PyArray_DescrFromType(NPY_DOUBLE);
    if (PyArray_RegisterCastFunc(found, NPY_FLOAT, bfloat16_to_float) < 0 ||
        PyArray_RegisterCastFunc(found, NPY_DOUBLE, bfloat16_to_double) < 0 ||
        PyArray_RegisterCastFunc(singles, number, bfloat16_from_float) < 0 ||
        PyArray_RegisterCastFunc(doubles, number, bfloat16_from_double) < 0 ||
        PyArray_RegisterCanCast(found, NPY_FLOAT, NPY_NOSCALAR) < 0 ||
        PyArray_RegisterCanCast(found, NPY_DOUBLE, NPY_NOSCALAR) < 0)
        return NULL;
    return (PyObject*)found;
}

#endif
