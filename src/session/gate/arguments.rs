//! Binds the arguments of a call to the parameters of its signature.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgOperator, FunctionArguments, Spanned,
};

use crate::error::{Error, Position, Result};
use crate::functions::effect::{Need, Signature};
use crate::session::gate::{function_position, position_of};
use crate::session::parser::identifier;

/// One expression per parameter, `None` where the call leaves it out.
///
/// # Errors
/// `SG1004 effect-argument` with the signature as hint and the position of the argument, or of
/// the call where an argument is missing.
pub(super) fn bind(signature: &Signature, call: &Function) -> Result<Vec<Option<Expr>>> {
    let place = function_position(call);
    let wrong = |message: String, position: Option<Position>| -> Error {
        let error = signature.argument_error(message);
        match position.or(place) {
            Some(position) => error.with_position(position),
            None => error,
        }
    };
    let name = signature.name;
    if !matches!(call.parameters, FunctionArguments::None) {
        return Err(wrong(format!("{name} takes one list of arguments"), None));
    }
    let given = match &call.args {
        FunctionArguments::None => &[],
        FunctionArguments::Subquery(_) => {
            return Err(wrong(
                format!("{name} takes no subquery without parentheses"),
                None,
            ));
        }
        FunctionArguments::List(list) => {
            if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
                return Err(wrong(format!("{name} takes arguments only"), None));
            }
            list.args.as_slice()
        }
    };
    let mut bound: Vec<Option<Expr>> = vec![None; signature.parameters.len()];
    let mut named_seen = false;
    for (place, arg) in given.iter().enumerate() {
        let (index, value, at) = match arg {
            FunctionArg::Unnamed(value) => {
                if named_seen {
                    return Err(wrong(
                        format!("{name} has a positional argument after a named one"),
                        position_of(value.span()),
                    ));
                }
                (Some(place), value, position_of(value.span()))
            }
            FunctionArg::Named {
                name: given,
                arg: value,
                operator,
            } => {
                named_seen = true;
                let at = position_of(given.span);
                check_operator(operator).map_err(|message| wrong(message, at))?;
                (
                    index_of(signature, &identifier(given)).map_err(|m| wrong(m, at))?,
                    value,
                    at,
                )
            }
            FunctionArg::ExprNamed {
                name: Expr::Identifier(given),
                arg: value,
                operator,
            } => {
                named_seen = true;
                let at = position_of(given.span);
                check_operator(operator).map_err(|message| wrong(message, at))?;
                (
                    index_of(signature, &identifier(given)).map_err(|m| wrong(m, at))?,
                    value,
                    at,
                )
            }
            FunctionArg::ExprNamed { name: given, .. } => {
                let at = position_of(given.span());
                return Err(wrong(format!("\"{given}\" is no name of an argument"), at));
            }
        };
        let value = match value {
            FunctionArgExpr::Expr(expr) => expr.clone(),
            FunctionArgExpr::QualifiedWildcard(_)
            | FunctionArgExpr::Wildcard
            | FunctionArgExpr::WildcardWithOptions(_) => {
                return Err(wrong(format!("{name} takes no wildcard"), at));
            }
        };
        let Some(slot) = index.and_then(|index| bound.get_mut(index)) else {
            return Err(wrong(
                format!(
                    "{name} takes at most {} arguments",
                    signature.parameters.len()
                ),
                at,
            ));
        };
        if slot.is_some() {
            let parameter = index.and_then(|index| signature.parameters.get(index));
            return Err(wrong(
                format!(
                    "argument \"{}\" of {name} is given twice",
                    parameter.map_or("", |parameter| parameter.name)
                ),
                at,
            ));
        }
        *slot = Some(value);
    }
    let missing = signature
        .parameters
        .iter()
        .zip(&bound)
        .find(|(parameter, value)| parameter.need == Need::Required && value.is_none());
    match missing {
        Some((parameter, _)) => Err(wrong(
            format!("argument \"{}\" of {name} is missing", parameter.name),
            None,
        )),
        None => Ok(bound),
    }
}

fn check_operator(operator: &FunctionArgOperator) -> std::result::Result<(), String> {
    match operator {
        FunctionArgOperator::RightArrow | FunctionArgOperator::Assignment => Ok(()),
        FunctionArgOperator::Equals | FunctionArgOperator::Colon | FunctionArgOperator::Value => {
            Err(format!(
                "a named argument is written with \"=>\", not with \"{operator}\""
            ))
        }
    }
}

fn index_of(signature: &Signature, given: &str) -> std::result::Result<Option<usize>, String> {
    match signature
        .parameters
        .iter()
        .position(|parameter| parameter.name == given)
    {
        Some(index) => Ok(Some(index)),
        None => Err(format!("{} has no argument \"{given}\"", signature.name)),
    }
}
