// Package serving tests from outside how a member serves: TLS whose certificates and
// authorities change under load, certificates that the member makes, and the pages
// for operators. It needs a program (see package server), and curl for some of it.
package serving
