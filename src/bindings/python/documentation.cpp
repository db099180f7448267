// SPDX-License-Identifier: Apache-2.0
// Pages and signatures at run time, as python/ndverbs/_native.pyi has them: pages.py makes a table
// of the stub, and document() gives each name of the finished module its row.
#include <pybind11/pybind11.h>
#include <structmember.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <new>
#include <string>
#include <string_view>
#include <utility>

#include "bindings/module.hpp"

namespace ndv::bindings {
namespace {

// The texts are literals: they last, and end with a null character.
struct Page {
    std::string_view name;  // "QueuePair.write"; empty: the module
    std::string_view signature;
    std::string_view text;
};

constexpr Page kPages[] = {
#include "bindings/pages.inc"
};

// What CPython divides into __text_signature__ and __doc__. `self` marks what a method descriptor
// binds, which inspect then leaves out.
std::string internal_doc(std::string_view name, std::string_view self, const Page& page) {
    std::string out(name);
    if (!self.empty() && page.signature.starts_with("(self")) {
        out.append("(").append(self).append(page.signature.substr(sizeof "(self" - 1));
    } else {
        out.append(page.signature);
    }
    return out.append("\n--\n\n").append(page.text);
}

// Of a function of pybind11, which frees the text with the function.
void document_function(PyMethodDef& method, const Page& page) {
    std::free(const_cast<char*>(method.ml_doc));
    method.ml_doc = ::strdup(internal_doc(method.ml_name, "", page).c_str());
}

void document_class(PyTypeObject* type, std::string_view name, const Page& page) {
    py::handle(reinterpret_cast<PyObject*>(type)).attr("__doc__") = page.text;
    if (page.signature.empty()) return;
    // The signature is looked for here alone; the type frees it, as pybind11 allocates it.
    const std::string doc = internal_doc(name, "", page);
#if PY_VERSION_HEX >= 0x030D0000
    auto* const copy = static_cast<char*>(PyMem_Malloc(doc.size() + 1));
#else
    auto* const copy = static_cast<char*>(PyObject_Malloc(doc.size() + 1));
#endif
    if (copy == nullptr) throw std::bad_alloc();
    std::memcpy(copy, doc.c_str(), doc.size() + 1);
    type->tp_doc = copy;
}

// `object`: what the name stands for.
void document_object(py::handle owner, std::string_view name, py::handle object, const Page& page) {
    PyObject* const o = object.ptr();
    const auto* const owner_type = reinterpret_cast<PyTypeObject*>(owner.ptr());
    if (PyType_Check(o) != 0) {
        document_class(reinterpret_cast<PyTypeObject*>(o), name, page);
    } else if (PyInstanceMethod_Check(o) != 0) {  // pybind11 wraps what a class binds, twice
        document_object(owner, name, PyInstanceMethod_GET_FUNCTION(o), page);
    } else if (PyCFunction_CheckExact(o) != 0) {
        document_function(*reinterpret_cast<PyCFunctionObject*>(o)->m_ml, page);
    } else if (Py_IS_TYPE(o, &PyMethodDescr_Type)) {
        // One of ours, in static storage, for good.
        reinterpret_cast<PyMethodDescrObject*>(o)->d_method->ml_doc =
            ::strdup(internal_doc(name, "$self", page).c_str());
    } else if (Py_IS_TYPE(o, &PyMemberDescr_Type)) {
        reinterpret_cast<PyMemberDescrObject*>(o)->d_member->doc = page.text.data();
    } else if (Py_IS_TYPE(o, &PyProperty_Type) || Py_TYPE(o) == owner_type) {
        object.attr("__doc__") = page.text;  // a property; a member of an enum
    }
}

std::string_view page_of(std::string_view name) {
    const auto* const found = std::ranges::find(kPages, name, &Page::name);
    if (found == std::end(kPages)) throw py::key_error(std::string(name));
    return found->text;
}

}  // namespace

void document(py::module_& module) {
    module.def("_page", page_of, py::arg("name"));
    for (const Page& page : kPages) {
        const std::size_t dot = page.name.find('.');
        const std::string owner_name(page.name.substr(0, dot));
        if (owner_name.empty()) {
            module.doc() = page.text;
            continue;
        }
        // What exists for type checkers alone, and what Python adds later, is not here.
        py::object object = py::getattr(module, owner_name.c_str(), py::object());
        if (!object) continue;
        py::object owner = module;
        std::string_view name = page.name;
        if (dot != std::string_view::npos) {
            name = page.name.substr(dot + 1);
            owner = std::exchange(object, py::getattr(object, name.data(), py::object()));
            if (!object) continue;
        }
        document_object(owner, name, object, page);
    }
}

}  // namespace ndv::bindings
